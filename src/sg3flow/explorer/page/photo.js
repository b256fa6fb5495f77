// Projection of a photo, with live progress.
import { followed, post, problem, solved, upload } from "./server.js";
import { facts, set, state } from "./state.js";

const $ = (id) => document.getElementById(id);
const LOSSES = { pixels: "pixels", lpips: "perception (LPIPS)", vgg: "features (VGG16)" };
let file = null;
let job = null;

export function setUpPhoto() {
  const input = $("photo-file");
  $("loss").append(...facts.losses.map((name) => new Option(LOSSES[name], name)));
  const drop = $("drop");
  input.addEventListener("change", () => choose(input.files[0]));
  for (const name of ["dragover", "dragenter"]) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    choose(event.dataTransfer.files[0]);
  });
  $("project").addEventListener("click", project);
  $("stop-photo").addEventListener("click", () => job && post(`api/jobs/${job.job}/stop`, {}).catch(() => {}));
}

function choose(chosen) {
  file = chosen ?? null;
  $("project").disabled = !file;
  $("photo-state").textContent = file ? file.name : "";
}

async function project() {
  const words = new URLSearchParams({ space: $("space").value, steps: $("steps").value, loss: $("loss").value, crop: $("crop").value });
  if (facts.num_classes) words.set("class", state.class);
  else if (facts.label_dim) words.set("label", state.label.join(","));
  try {
    busy(true);
    $("photo-state").textContent = "sending the photo…";
    job = await (await upload(`api/projection?${words}`, file)).json();
    solved("photo");
    let shown = 0;
    $("photo-target").src = `api/jobs/${job.job}/target.png`;
    const ended = await followed(job, (now) => {
      $("photo-progress").max = now.total;
      $("photo-progress").value = now.step;
      $("photo-state").textContent = told(now);
      if (now.preview !== shown) {
        shown = now.preview;
        $("photo-found").src = `api/jobs/${job.job}/preview.png?${shown}`;
        $("photo-pair").hidden = false;
      }
    });
    if (ended.w) {
      $("photo-found").src = `api/jobs/${job.job}/preview.png?end`;
      $("photo-found-caption").textContent = `Projection, ${ended.psnr.toFixed(1)} dB`;
      set({ w: ended.w, mixOn: false, edits: {}, translate_x: 0, translate_y: 0, rotate: 0 });
    }
    if (ended.state === "stopped") $("photo-state").textContent = `stopped at step ${ended.step}`;
    if (ended.state === "failed") problem(ended.message, "photo");
  } catch (error) {
    problem(error.message, "photo");
    $("photo-state").textContent = "";
  }
  job = null;
  busy(false);
}

function told(now) {
  if (now.state === "waiting") return "waits for other work";
  const steps = `step ${now.step} of ${now.total}`;
  return now.psnr == null ? "looks at the network…" : `${steps} · ${now.psnr.toFixed(1)} dB`;
}

function busy(is) {
  $("photo-progress").hidden = $("stop-photo").hidden = !is;
  $("project").disabled = is || !file;
}
