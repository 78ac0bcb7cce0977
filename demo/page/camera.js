// A photo taken with the device's camera.

import { button, make } from "./dom.js";

/** Open a dialog inside `host` that shows the camera; give the photo to `take`. Throws where no camera may be used. */
export async function openCamera(host, take) {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  const video = make("video", { autoplay: true, playsinline: true, muted: true });
  video.srcObject = stream;
  const shoot = () => {
    const canvas = make("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    const received = (blob) => blob && take(new File([blob], "camera", { type: "image/jpeg" }));
    canvas.toBlob(received, "image/jpeg", 0.92);
    dialog.close();
  };
  const dialog = make(
    "dialog",
    { class: "shoot", "aria-label": "Camera" },
    video,
    make(
      "div",
      { class: "tools" },
      button({ picture: "camera", text: "Take", name: "Take the photo", press: shoot }),
      button({ text: "Cancel", name: "Cancel", press: () => dialog.close() }),
    ),
  );
  dialog.addEventListener("close", () => {
    for (const track of stream.getTracks()) track.stop();
    dialog.remove();
  });
  host.append(dialog);
  dialog.showModal();
}
