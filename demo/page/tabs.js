// The page's elements; Gradio puts them into its tabs.

import { CutoutStudio } from "./cutouts.js";
import { KnobStudio } from "./knobs.js";
import { PhotoStudio } from "./photos.js";
import { models } from "./studio.js";

models(); // asked for while Gradio still builds its page

customElements.define("knob-studio", KnobStudio);
customElements.define("photo-studio", PhotoStudio);
customElements.define("cutout-studio", CutoutStudio);
