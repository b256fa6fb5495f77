// Directions: a slider for each, in units of the natural step of the file.
import { download, post, problem, solved } from "./server.js";
import { facts, listen, set, state } from "./state.js";
import { element, slider } from "./controls.js";

const $ = (id) => document.getElementById(id);
const REACH = 4; // standard deviations
let rows = [];

export function setUpDirections() {
  const sets = facts.direction_sets;
  if (!sets.some((each) => each.key === state.directions)) {
    state.directions = sets[0].key;
    state.edits = {};
  }
  $("direction-set").append(...sets.map(({ key, label }) => element("option", { value: key }, label)));
  $("direction-set").value = state.directions;
  $("direction-set").addEventListener("change", (event) => {
    set({ directions: event.target.value, edits: {} });
    load();
  });
  $("reset-edits").addEventListener("click", () => set({ edits: {} }));
  $("save-directions").addEventListener("click", async () => {
    try {
      const answer = await post("api/directions.npz", { directions: state.directions });
      download(await answer.blob(), "directions.npz");
    } catch (error) {
      problem(error.message, "directions");
    }
  });
  $("directions").addEventListener("toggle", () => { if ($("directions").open && !rows.length) load(); });
  if (Object.keys(state.edits).length) $("directions").open = true;
  listen((names) => {
    if (names.includes("directions") && $("direction-set").value !== state.directions) {
      $("direction-set").value = state.directions;
      if ($("directions").open) load();
    }
    if (names.includes("edits")) showStrengths();
  });
}

async function load() {
  const key = state.directions;
  rows = [];
  $("edits").replaceChildren(element("p", { className: "soft", role: "status" }, "looking for directions…"));
  try {
    const found = await (await post("api/directions", { directions: key })).json();
    if (key !== state.directions) return; // another set was chosen
    solved("directions");
    rows = found.names.map((name, index) => makeRow(name, found.scales[index]));
    $("edits").replaceChildren(...rows.map((each) => each.row));
    showStrengths();
  } catch (error) {
    $("edits").replaceChildren();
    problem(error.message, "directions");
  }
}

function makeRow(name, scale) {
  const digits = (value) => Number(value.toPrecision(3));
  const reach = digits(scale * REACH) || 1;
  const made = slider({ id: `edit-${name}`, label: name, min: -reach, max: reach, step: digits(reach / 100),
    usual: 0, change: (value) => set({ edits: { ...state.edits, [name]: value } }) });
  return { name, ...made };
}

function showStrengths() {
  for (const { name, show } of rows) show(state.edits[name] ?? 0);
}
