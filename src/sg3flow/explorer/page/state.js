// What the page shows: one object, in the address as well, so that a view can be shared.
export const facts = {};
export const state = {
  seed: 0, w: "", psi: 1, class: null, label: null, translate_x: 0, translate_y: 0, rotate: 0,
  noise_mode: "const", mixOn: false, mixSeed: 1, mixLayers: [], directions: "", edits: {},
  wall: 0, picks: [],
};
const listeners = [];
const NUMBERS = { psi: 1, translate_x: 0, translate_y: 0, rotate: 0 };
const SEEDS = ["seed", "mixSeed", "wall"];
const MAX_SEED = 4294967295;
let timer = 0;

export const listen = (listener) => listeners.push(listener);

// Sets values of the state; listeners get the names of those that were set.
export function set(values) {
  Object.assign(state, values);
  for (const listener of listeners) listener(Object.keys(values));
  clearTimeout(timer);
  timer = setTimeout(storeHash, 200);
}

export const storeHash = () => history.replaceState(null, "", `#${hashOf()}`);
export const validSeed = (value) => Number.isInteger(value) && value >= 0 && value <= MAX_SEED;
export const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] % 1000000;

// 0,1,2,5 as 0-2,5
export function layersText(layers) {
  const parts = [];
  for (const layer of [...layers].sort((a, b) => a - b)) {
    const last = parts.at(-1);
    if (last && layer === last[1] + 1) last[1] = layer;
    else parts.push([layer, layer]);
  }
  return parts.map(([a, b]) => (a === b ? `${a}` : `${a}-${b}`)).join(",");
}

export function layersOf(text, count) {
  const layers = [];
  for (const part of text.split(",")) {
    const [first, last = first] = part.split("-").map(Number);
    for (let layer = first; layer <= last && layer < count; layer++) layers.push(layer);
  }
  return layers.filter((each) => Number.isInteger(each) && each >= 0);
}

// The picture of a seed as it would be drawn with the present settings, without mixing.
export function seedPicture(seed) {
  const picture = { seed, psi: state.psi };
  if (facts.label_dim) {
    if (state.label) picture.label = state.label;
    else picture.class = state.class;
  }
  return { ...picture, ...placement() };
}

function placement() {
  const found = {};
  if (facts.can_move) {
    for (const name of ["translate_x", "translate_y", "rotate"]) {
      if (state[name]) found[name] = state[name];
    }
  }
  if (facts.has_noise) found.noise_mode = state.noise_mode;
  const edits = Object.entries(state.edits).filter(([, strength]) => strength);
  if (edits.length) {
    found.directions = state.directions;
    found.edits = Object.fromEntries(edits);
  }
  return found;
}

// The large picture, as the server takes it.
export function picture() {
  const isMixed = state.mixOn && state.mixLayers.length;
  let found = seedPicture(state.seed);
  if (state.w) {
    const { psi, label, class: index } = found;
    found = { w: state.w, ...placement() };
    if (isMixed) Object.assign(found, { psi, label, class: index });
  }
  if (isMixed) found.mix = { seed: state.mixSeed, layers: layersText(state.mixLayers) };
  return found;
}

// The state that shows a picture again: of the film, or of the address.
export function stateOf(shown) {
  const { mix, edits = {}, directions = state.directions, ...rest } = shown;
  const found = { w: "", translate_x: 0, translate_y: 0, rotate: 0, noise_mode: "const", ...rest };
  found.edits = { ...edits };
  found.directions = directions;
  found.mixOn = Boolean(mix);
  if (mix) {
    found.mixSeed = mix.seed;
    found.mixLayers = layersOf(`${mix.layers}`, facts.num_ws);
  }
  return found;
}

function hashOf() {
  const words = new URLSearchParams();
  words.set("picture", JSON.stringify(picture()));
  if (!state.mixOn) words.set("mix", `${state.mixSeed}:${layersText(state.mixLayers)}`);
  words.set("wall", state.wall);
  if (state.picks.length) words.set("film", JSON.stringify(state.picks));
  return words.toString();
}

// Reads the address; a damaged one counts only as far as it can be read.
export function readHash() {
  const words = new URLSearchParams(location.hash.slice(1));
  const read = (name, usual) => {
    try {
      return JSON.parse(words.get(name)) ?? usual;
    } catch {
      return usual;
    }
  };
  const [mixSeed, layers] = (words.get("mix") ?? "").split(":");
  if (layers && validSeed(Number(mixSeed))) {
    state.mixSeed = Number(mixSeed);
    state.mixLayers = layersOf(layers, facts.num_ws);
  }
  const shown = read("picture", {});
  if (shown && typeof shown === "object" && !Array.isArray(shown)) {
    Object.assign(state, cleaned(stateOf(shown)));
  }
  const wall = Number(words.get("wall"));
  if (validSeed(wall)) state.wall = wall;
  const film = read("film", []);
  if (Array.isArray(film)) state.picks = film.filter((each) => each && typeof each === "object").slice(0, 64);
}

const isLabel = (label) => Array.isArray(label) && label.length === facts.label_dim &&
  label.every((each) => Number.isFinite(each));

function cleaned(found) {
  for (const [name, usual] of Object.entries(NUMBERS)) {
    if (name in found && !Number.isFinite(found[name])) found[name] = usual;
  }
  for (const name of SEEDS) {
    if (name in found && !validSeed(found[name])) delete found[name];
  }
  if (typeof found.w !== "string") found.w = "";
  if ("label" in found && !isLabel(found.label)) delete found.label;
  if (!found.edits || typeof found.edits !== "object") found.edits = {};
  return found;
}
