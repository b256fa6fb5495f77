// The page: the large picture, its command, and what sets up the rest.
import { copied, download, get, post, problem, showCommandIn, solved } from "./server.js";
import { facts, listen, picture, readHash, set, state, stateOf, storeHash } from "./state.js";
import { setUpMixing, setUpPicture } from "./controls.js";
import { setUpDirections } from "./directions.js";
import { setUpFilm } from "./film.js";
import { setUpPhoto } from "./photo.js";
import { setUpWall } from "./wall.js";

const $ = (id) => document.getElementById(id);
export const page = Math.random().toString(36).slice(2, 10);
let wanted = null;
let isDrawing = false;
let commandTimer = 0;

function draw() {
  wanted = picture();
  $("main").setAttribute("aria-busy", "true");
  $("busy").hidden = false;
  if (!isDrawing) drawWanted();
}

// One picture at a time, always the newest: dragging never waits for old positions.
async function drawWanted() {
  isDrawing = true;
  while (wanted) {
    const drawn = wanted;
    wanted = null;
    try {
      const answer = await post("api/picture", { picture: drawn, slot: `${page} large` });
      await show(await answer.blob(), drawn);
      solved("picture");
    } catch (error) {
      if (error.status !== 409) problem(error.message, "picture");
    }
  }
  isDrawing = false;
  $("busy").hidden = true;
  $("main").setAttribute("aria-busy", "false");
}

async function show(blob, drawn) {
  const img = $("picture");
  const before = img.src;
  img.src = URL.createObjectURL(blob);
  img.alt = described(drawn);
  $("caption").textContent = img.alt;
  img.dataset.drawn = Number(img.dataset.drawn ?? 0) + 1;
  await img.decode().catch(() => {});
  if (before) URL.revokeObjectURL(before);
}

function described(drawn) {
  const words = [drawn.w ? `from a photo (${drawn.w})` : `seed ${drawn.seed}`];
  if (drawn.class != null) words.push(facts.class_names[drawn.class] ?? `class ${drawn.class}`);
  if (drawn.mix) words.push(`layers ${drawn.mix.layers} of seed ${drawn.mix.seed}`);
  if (drawn.edits) words.push(Object.keys(drawn.edits).join(", "));
  return words.join(" · ");
}

async function showCommand() {
  try {
    const found = await (await post("api/command", { picture: picture() })).json();
    showCommandIn($("command"), found.command);
    $("command-note").textContent = found.note;
    $("command-note").hidden = !found.note;
  } catch { /* the picture tells what is wrong */ }
}

async function loadFacts() {
  Object.assign(facts, await (await get("api/model")).json());
  const kind = facts.label_dim ? `, ${facts.num_classes ? `${facts.num_classes} classes` : `labels of ${facts.label_dim} numbers`}` : "";
  $("about").textContent = `${facts.network} · ${facts.config}, ${facts.resolution} px${kind} · ${facts.device}`;
  document.title = `${facts.network}: explorer`;
}

function setUpStage() {
  const name = () => (state.w || state.mixOn ? "picture" : `seed${String(state.seed).padStart(4, "0")}`);
  const saved = (id, path, suffix) => $(id).addEventListener("click", async () => {
    try {
      const answer = await post(path, { picture: picture() });
      download(await answer.blob(), name() + suffix);
      solved("save");
    } catch (error) {
      problem(error.message, "save");
    }
  });
  saved("save-png", "api/picture", ".png");
  saved("save-npz", "api/w", ".npz");
  $("pick").addEventListener("click", () => set({ picks: [...state.picks, picture()] }));
  $("copy-command").addEventListener("click", (event) => copied($("command").textContent, event.target));
  $("share").addEventListener("click", (event) => setTimeout(() => copied(location.href, event.target), 250));
  if (facts.resolution <= 128) document.body.classList.add("small");
  if (facts.can_move) setUpDragging();
}

// With a mouse or a pen; on a touch screen the same movement scrolls the page.
function setUpDragging() {
  const frame = document.querySelector(".frame");
  const round = (value) => Math.round(Math.max(-1, Math.min(1, value)) * 1000) / 1000;
  let start = null;
  frame.classList.add("movable");
  frame.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch" || event.button) return;
    start = { x: event.clientX, y: event.clientY, at: [state.translate_x, state.translate_y] };
    frame.setPointerCapture(event.pointerId);
    frame.classList.add("moving");
  });
  frame.addEventListener("pointermove", (event) => {
    if (!start) return;
    const side = frame.clientWidth;
    set({
      translate_x: round(start.at[0] + (event.clientX - start.x) / side),
      translate_y: round(start.at[1] + (event.clientY - start.y) / side),
    });
  });
  for (const end of ["pointerup", "pointercancel"]) {
    frame.addEventListener(end, () => { start = null; frame.classList.remove("moving"); });
  }
  frame.addEventListener("dblclick", () => set({ translate_x: 0, translate_y: 0, rotate: 0 }));
}

async function start() {
  try {
    await loadFacts();
  } catch (error) {
    problem(error.message, "model");
    return;
  }
  readHash();
  setUpPicture();
  setUpMixing();
  setUpStage();
  setUpDirections();
  setUpFilm(page);
  setUpPhoto();
  listen(() => {
    draw();
    clearTimeout(commandTimer);
    commandTimer = setTimeout(showCommand, 150);
  });
  setUpWall(page);
  window.addEventListener("otherversion", () => { storeHash(); location.reload(); });
  window.addEventListener("hashchange", () => { readHash(); set(stateOf(picture())); });
  $("main").hidden = false;
  draw();
  showCommand();
}

start();
