// Sliders, seeds, classes, and the layers of mixing.
import { facts, layersText, listen, randomSeed, set, state, validSeed } from "./state.js";
import { problem, solved } from "./server.js";

const $ = (id) => document.getElementById(id);

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// A labeled slider with its number and a button that resets it.
export function slider({ id, label, min, max, step, usual, unit = "", change }) {
  const range = element("input", { type: "range", id, min, max, step });
  const number = element("input", { type: "number", step: "any", "aria-label": `${label}, exactly` });
  const reset = element("button", { "aria-label": `Reset: ${label}`, title: "Reset" }, "↺");
  const text = unit ? `${label}, ${unit}` : label;
  const show = (value) => {
    range.value = value;
    if (document.activeElement !== number) number.value = value;
  };
  range.addEventListener("input", () => { number.value = range.value; change(Number(range.value)); });
  number.addEventListener("input", () => {
    if (number.value === "" || !Number.isFinite(number.valueAsNumber)) {
      problem(`${label} must be a number.`, `number-${id}`);
      return;
    }
    solved(`number-${id}`);
    range.value = number.value;
    change(number.valueAsNumber);
  });
  number.addEventListener("change", () => { if (number.value === "") { number.value = usual; solved(`number-${id}`); change(usual); } });
  reset.addEventListener("click", () => { number.value = usual; range.value = usual; change(usual); });
  const row = element("div", { className: "slider" },
    element("label", { htmlFor: id }, text), number, reset, range);
  return { row, show };
}

export function setUpSliders() {
  for (const place of document.querySelectorAll(".slider[data-name]")) {
    const { name, label, min, max, step, unit } = place.dataset;
    const usual = Number(place.dataset.default);
    const made = slider({ id: name, label, min, max, step, usual, unit,
      change: (value) => set({ [name]: value }) });
    place.replaceWith(made.row);
    made.show(state[name]);
    listen((names) => { if (names.includes(name)) made.show(state[name]); });
  }
}

// An input for a seed: a wrong one is told and not used.
export function seedInput(id, name, also = {}) {
  const input = $(id);
  const show = () => { if (document.activeElement !== input) input.value = state[name]; };
  input.addEventListener("input", () => {
    const value = input.value === "" ? NaN : Number(input.value);
    if (!validSeed(value)) {
      problem("A seed must be a whole number from 0 to 4294967295.", id);
      return;
    }
    solved(id);
    set({ [name]: value, ...also });
  });
  input.addEventListener("blur", () => { solved(id); input.value = state[name]; });
  listen((names) => { if (names.includes(name)) show(); });
  show();
}

export function setUpPicture() {
  setUpSliders();
  seedInput("seed", "seed", { w: "" });
  $("random").addEventListener("click", () => set({ seed: randomSeed(), w: "" }));
  $("leave-stored").addEventListener("click", () => set({ w: "" }));
  listen((names) => { if (names.includes("w")) showStored(); });
  showStored();
  $("moves").hidden = !facts.can_move;
  $("noise-field").hidden = !facts.has_noise;
  $("noise_mode").value = state.noise_mode;
  $("noise_mode").addEventListener("change", (event) => set({ noise_mode: event.target.value }));
  if (facts.num_classes) setUpClasses();
  else if (facts.label_dim) setUpLabel();
}

function showStored() {
  $("stored").hidden = !state.w;
  $("stored").firstElementChild.textContent = `From a photo (${state.w})`;
  $("seed-field").hidden = Boolean(state.w);
}

function setUpClasses() {
  $("classes").hidden = false;
  if (!(Number.isInteger(state.class) && state.class >= 0 && state.class < facts.num_classes)) state.class = 0;
  const names = facts.class_names;
  const buttons = Array.from({ length: facts.num_classes }, (_, index) =>
    element("button", { type: "button" }, names[index] ?? `${index}`));
  buttons.forEach((button, index) =>
    button.addEventListener("click", () => set({ class: index, label: null })));
  const show = () => buttons.forEach((button, index) =>
    button.setAttribute("aria-pressed", String(index === state.class)));
  $("classes").querySelector(".chips").append(...buttons);
  listen((changed) => { if (changed.includes("class")) show(); });
  show();
}

function setUpLabel() {
  $("label-field").hidden = false;
  state.label ??= facts.sample_label;
  $("label").value = state.label.join(", ");
  $("label").addEventListener("input", (event) => {
    const numbers = event.target.value.split(",").map((part) => (part.trim() === "" ? NaN : Number(part)));
    if (numbers.some((each) => !Number.isFinite(each)) || numbers.length !== facts.label_dim) {
      problem(`A label must be ${facts.label_dim} numbers, separated by commas.`, "label");
      return;
    }
    solved("label");
    set({ label: numbers });
  });
}

export function setUpMixing() {
  const third = (part) => Math.round((facts.num_ws * part) / 3);
  const groups = { coarse: [0, third(1)], middle: [third(1), third(2)], fine: [third(2), facts.num_ws], all: [0, facts.num_ws] };
  const range = ([first, end]) => Array.from({ length: end - first }, (_, i) => first + i);
  if (!state.mixLayers.length) state.mixLayers = range(groups.fine);
  const buttons = range(groups.all).map((layer) => {
    const button = element("button", { type: "button", "aria-label": `Layer ${layer}` }, `${layer}`);
    button.addEventListener("click", () => {
      const has = state.mixLayers.includes(layer);
      const layers = has ? state.mixLayers.filter((each) => each !== layer) : [...state.mixLayers, layer];
      set({ mixLayers: layers, mixOn: true });
    });
    return button;
  });
  $("layers").append(...buttons);
  for (const button of document.querySelectorAll("[data-layers]")) {
    button.addEventListener("click", () => set({ mixLayers: range(groups[button.dataset.layers]), mixOn: true }));
  }
  $("mix-on").addEventListener("change", (event) => set({ mixOn: event.target.checked }));
  seedInput("mix-seed", "mixSeed", { mixOn: true });
  $("mix-random").addEventListener("click", () => set({ mixSeed: randomSeed(), mixOn: true }));
  const show = () => {
    $("mix-on").checked = state.mixOn;
    buttons.forEach((button, layer) =>
      button.setAttribute("aria-pressed", String(state.mixLayers.includes(layer))));
    $("layers").title = layersText(state.mixLayers);
  };
  listen(show);
  show();
}
