// The wall of seeds. Tiles are drawn when they are seen, after the large picture.
import { post, problem, solved } from "./server.js";
import { facts, listen, seedPicture, set, state } from "./state.js";
import { element, seedInput } from "./controls.js";

const $ = (id) => document.getElementById(id);
const COUNT = 24;
const MAX_SEED = 4294967295;
const TOGETHER = 2;
const LOOKS = ["psi", "class", "label", "translate_x", "translate_y", "rotate", "noise_mode", "edits", "directions"];
const seen = new Set();
let tiles = [];
let page = "";
let count = COUNT;
let drawing = 0;
let age = 0;
let timer = 0;
let observer;

export function setUpWall(name) {
  page = name;
  observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) seen.add(target);
      else seen.delete(target);
    }
    drawSeen();
  }, { rootMargin: "200px" });
  seedInput("wall-from", "wall");
  const moved = (by) => set({ wall: Math.max(0, Math.min(MAX_SEED, state.wall + by)) });
  $("wall-back").addEventListener("click", () => moved(-count));
  $("wall-next").addEventListener("click", () => moved(count));
  $("more").addEventListener("click", () => { count += COUNT; build(); });
  $("tiles").addEventListener("keydown", moveFocus);
  listen((names) => {
    if (names.includes("wall")) build();
    else if (names.some((each) => LOOKS.includes(each))) redrawSoon();
    if (names.some((each) => ["seed", "w", "wall"].includes(each))) mark();
  });
  build();
}

function build() {
  for (const tile of tiles) observer.unobserve(tile.item);
  seen.clear();
  age += 1;
  const seeds = Array.from({ length: Math.min(count, MAX_SEED - state.wall + 1) }, (_, i) => state.wall + i);
  tiles = seeds.map(makeTile);
  $("tiles").replaceChildren(...tiles.map((tile) => tile.item));
  for (const tile of tiles) observer.observe(tile.item);
  mark();
}

function makeTile(seed, index) {
  const img = element("img", { alt: "" });
  const button = element("button", { className: "tile", type: "button", "aria-label": `seed ${seed}` }, img);
  const add = element("button", { className: "add", type: "button", "aria-label": `add seed ${seed} to the film` }, "+");
  const item = element("li", {}, button, add, element("small", { ariaHidden: "true" }, `${seed}`));
  button.addEventListener("click", () => {
    if ($("mix-click").checked) set({ mixSeed: seed, mixOn: true });
    else set({ seed, w: "" });
  });
  add.addEventListener("click", () => set({ picks: [...state.picks, seedPicture(seed)] }));
  return { seed, index, item, button, img, drawn: -1 };
}

function mark() {
  for (const { seed, button } of tiles) {
    button.setAttribute("aria-current", String(!state.w && seed === state.seed));
  }
}

function redrawSoon() {
  clearTimeout(timer);
  timer = setTimeout(() => { age += 1; drawSeen(); }, 350);
}

function drawSeen() {
  while (drawing < TOGETHER) {
    const tile = tiles.find((each) => each.drawn !== age && seen.has(each.item));
    if (!tile) return;
    tile.drawn = age;
    drawing += 1;
    drawTile(tile).finally(() => { drawing -= 1; drawSeen(); });
  }
}

async function drawTile(tile) {
  try {
    const side = Math.min(256, facts.resolution);
    const content = { picture: seedPicture(tile.seed), side, slot: `${page} wall ${tile.index}` };
    const blob = await (await post("api/picture", content)).blob();
    const before = tile.img.src;
    tile.img.src = URL.createObjectURL(blob);
    if (before) URL.revokeObjectURL(before);
    tile.img.classList.add("here");
    solved("wall");
  } catch (error) {
    if (error.status !== 409) problem(error.message, "wall");
  }
}

// Arrow keys move between tiles.
function moveFocus(event) {
  const index = tiles.findIndex((tile) => tile.button === document.activeElement);
  const columns = getComputedStyle($("tiles")).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (index < 0 || !step || !tiles[index + step]) return;
  event.preventDefault();
  tiles[index + step].button.focus();
}
