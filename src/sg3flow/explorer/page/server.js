// Calls of the server, and the one place where an error is shown.
const box = document.getElementById("problem");
let shownFor = "";

export function problem(sentence, key = "") {
  box.textContent = sentence;
  box.hidden = !sentence;
  shownFor = key;
}

// Clears the error of this kind: another one stays.
export function solved(key) {
  if (shownFor === key) problem("");
}

export class CallError extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

async function answered(request) {
  let answer;
  try {
    answer = await request;
  } catch {
    throw new CallError(0, "The explorer does not answer. Is it still running in the terminal?");
  }
  checkVersion(answer);
  if (answer.ok) return answer;
  let sentence = `The explorer answered with status ${answer.status}; try again.`;
  try {
    sentence = (await answer.json()).message ?? sentence;
  } catch { /* a proxy may answer with a page of its own */ }
  throw new CallError(answer.status, sentence);
}

// Behind `sg3flow serve` another version of the model may take over: its classes, layers and
// directions are others, so all is drawn again. The address has the view.
let version = "";
let isReloading = false;

function checkVersion(answer) {
  const now = answer.headers.get("X-Sg3flow-Version") ?? "";
  if (version && now && now !== version && !isReloading) {
    isReloading = true;
    window.dispatchEvent(new Event("otherversion"));
  }
  version = now || version;
}

export const get = (path) => answered(fetch(path, { cache: "no-store" }));

export const post = (path, content, signal) =>
  answered(fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(content),
    signal,
  }));

export const upload = (path, file) =>
  answered(fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream" },
    body: file,
  }));

export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// Polls a job until it ends; `show` gets its state each time.
export async function followed(job, show) {
  let state = job;
  for (;;) {
    show(state);
    if (!["waiting", "running"].includes(state.state)) return state;
    await new Promise((done) => setTimeout(done, 300));
    state = await (await get(`api/jobs/${job.job}`)).json();
  }
}

export async function copied(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not on http:// of another machine
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const before = button.dataset.text ?? button.textContent;
  button.dataset.text = before;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1500);
}

// A command in a box that breaks lines between words only.
export function showCommandIn(box, text) {
  const words = text.split(" ").flatMap((word) => {
    const span = document.createElement("span");
    span.textContent = word;
    return [span, " "];
  });
  box.replaceChildren(...words.slice(0, -1));
}
