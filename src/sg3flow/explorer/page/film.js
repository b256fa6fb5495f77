// The film: a loop through the pictures that were added.
import { copied, followed, post, problem, showCommandIn, solved } from "./server.js";
import { listen, set, state, stateOf } from "./state.js";
import { element } from "./controls.js";

const $ = (id) => document.getElementById(id);
const PARTS = ["film-video", "film-links", "film-command-line", "film-note"];
let page = "";
let job = null;
let thumbs = new Map(); // by the text of a picture

export function setUpFilm(name) {
  page = name;
  listen((names) => { if (names.includes("picks")) { $("film").open = true; showPicks(); } });
  showPicks();
  $("clear-picks").addEventListener("click", () => set({ picks: [] }));
  $("make-film").addEventListener("click", make);
  $("stop-film").addEventListener("click", () => job && post(`api/jobs/${job.job}/stop`, {}).catch(() => {}));
  $("copy-film").addEventListener("click", (event) => copied($("film-command").textContent, event.target));
}

function showPicks() {
  $("picks").replaceChildren(...state.picks.map(makePick));
  $("make-film").disabled = state.picks.length < 2;
  $("clear-picks").disabled = !state.picks.length;
  if (!job) $("film-state").textContent = state.picks.length < 2 ? "Add two pictures or more." : "";
}

function makePick(pick, index) {
  const name = pick.w ? pick.w : `seed ${pick.seed}`;
  const img = element("img", { alt: "" });
  const shown = element("button", { className: "show", type: "button", "aria-label": `show ${name}` }, img);
  const remove = element("button", { className: "remove", type: "button", "aria-label": `remove ${name} from the film` }, "×");
  shown.addEventListener("click", () => set(stateOf(pick)));
  remove.addEventListener("click", () => set({ picks: state.picks.filter((_, i) => i !== index) }));
  thumb(pick).then((address) => { img.src = address; }).catch((error) => problem(error.message, "picks"));
  return element("li", {}, shown, remove);
}

// One request for a picture, however often the list is shown before its answer: the server gives up
// a request when a second one of the same slot arrives.
function thumb(pick) {
  const key = JSON.stringify(pick);
  if (!thumbs.has(key)) {
    thumbs.set(key, drawThumb(pick, key));
    thumbs.get(key).catch(() => thumbs.delete(key));
  }
  return thumbs.get(key);
}

async function drawThumb(pick, key) {
  const answer = await post("api/picture", { picture: pick, side: 64, slot: `${page} pick ${key}` });
  return URL.createObjectURL(await answer.blob());
}

async function make() {
  const numbers = { frames: $("frames").valueAsNumber, fps: $("fps").valueAsNumber };
  for (const name of PARTS) $(name).hidden = true;
  try {
    job = await (await post("api/video", { pictures: state.picks, ...numbers })).json();
    solved("film");
    busy(true);
    const ended = await followed(job, (now) => {
      $("film-progress").max = now.total;
      $("film-progress").value = now.done;
      $("film-state").textContent = { waiting: "waits for other work", running: `${now.done} of ${now.total} frames` }[now.state] ?? "";
    });
    if (ended.state === "done") showVideo(ended);
    else $("film-state").textContent = ended.message || "stopped";
  } catch (error) {
    problem(error.message, "film");
  }
  job = null;
  busy(false);
}

function busy(is) {
  $("film-progress").hidden = $("stop-film").hidden = !is;
  $("make-film").disabled = is || state.picks.length < 2;
}

function showVideo(ended) {
  const address = `api/jobs/${ended.job}/`;
  $("film-state").textContent = `${ended.total} frames`;
  $("film-video").src = $("film-download").href = `${address}film.mp4`;
  $("film-download").download = "film.mp4";
  for (const name of ended.files) {
    const link = $(name.endsWith(".json") ? "film-keyframes" : "film-w");
    link.href = address + name;
    link.download = name;
  }
  showCommandIn($("film-command"), ended.command);
  for (const name of PARTS) $(name).hidden = false;
}
