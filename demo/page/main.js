// The page's elements; Gradio puts them into its tabs.

import { KnobStudio } from "./knobs.js";
import { PhotoStudio } from "./photos.js";

customElements.define("knob-studio", KnobStudio);
customElements.define("photo-studio", PhotoStudio);
