// The camera's picture with what is found in it, as often as the server answers: one picture is on its way at a time.

import { button, make, send } from "./dom.js";

const SIDE = 480; // pixels of the longer side of what is sent
const AGAIN = 400; // milliseconds until a busy server is asked again

export class Viewfinder {
  /** Ask for the camera; `tell(message, wrong)` says how it goes, `take(file)` gets a photo. Throws without a camera. */
  static async open(tell, take) {
    const wanted = { facingMode: "environment", width: { ideal: 1280 } };
    return new Viewfinder(await navigator.mediaDevices.getUserMedia({ video: wanted }), tell, take);
  }

  constructor(stream, tell, take) {
    this.stream = stream;
    this.tell = tell;
    this.take = take;
    this.open = true;
    this.video = make("video", { autoplay: true, playsinline: true, muted: true });
    this.video.muted = true;
    this.video.srcObject = stream;
    this.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.svg.setAttribute("aria-hidden", "true");
    const shoot = button({ picture: "camera", text: "Take", name: "Take this picture", press: () => this.shoot() });
    this.element = make("div", { class: "viewfinder" }, this.video, this.svg, shoot);
  }

  /** Show outlines until it is closed; `draw(svg, answer)` draws one answer. */
  async run(draw) {
    const times = [];
    while (this.open) {
      const hidden = document.hidden || !this.element.offsetParent || !this.video.videoWidth;
      if (hidden) {
        await new Promise((done) => setTimeout(done, 200));
        continue;
      }
      try {
        const answer = await (await send("cutouts/frame", await this.picture(SIDE, 0.75))).json();
        if (!this.open) return;
        draw(this.svg, answer);
        times.push(performance.now());
        if (times.length > 20) times.shift();
        const rate = (1000 * (times.length - 1)) / Math.max(1, times.at(-1) - times[0]);
        const names = answer.objects.map(({ label, score }) => `${label} ${Math.round(100 * score)} %`);
        this.element.dataset.frames = String(Number(this.element.dataset.frames ?? 0) + 1);
        if (times.length % 5 === 0) this.tell(`${rate.toFixed(0)} pictures a second. ${names.join(", ")}`, false);
      } catch (error) {
        if (!this.open) return;
        this.tell(error.message, true);
        await new Promise((done) => setTimeout(done, AGAIN));
      }
    }
  }

  /** Return the present picture as a JPEG, its longer side at most `side` pixels. */
  picture(side, quality) {
    const { videoWidth, videoHeight } = this.video;
    const scale = Math.min(1, side / Math.max(videoWidth, videoHeight));
    const canvas = make("canvas", { width: Math.round(videoWidth * scale), height: Math.round(videoHeight * scale) });
    canvas.getContext("2d").drawImage(this.video, 0, 0, canvas.width, canvas.height);
    return new Promise((done) => canvas.toBlob(done, "image/jpeg", quality));
  }

  async shoot() {
    const photo = await this.picture(4096, 0.92);
    this.take(new File([photo], "camera.jpg", { type: "image/jpeg" }));
  }

  close() {
    this.open = false;
    for (const track of this.stream.getTracks()) track.stop();
    this.element.remove();
  }
}
