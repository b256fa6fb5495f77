"use strict";
// Shows the nearest point of a chart: to a mouse, a finger, or the arrow keys.
for (const svg of document.querySelectorAll("svg[data-lines]")) {
  const lines = JSON.parse(svg.dataset.lines);
  const points = lines.flatMap((line, row) =>
    line.points.split(";").map((each) => {
      const [x, y, age, value] = each.split("|");
      return [row, Number(x), Number(y), age, value];
    }));
  const figure = svg.parentElement;
  const tip = document.createElement("div");
  const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  let shown = -1;
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "status");
  ring.setAttribute("r", "6");
  figure.append(tip);

  const hide = () => {
    tip.hidden = true;
    ring.remove();
    shown = -1;
  };

  const show = (index) => {
    const [row, x, y, age, value] = points[index];
    const line = lines[row];
    shown = index;
    tip.replaceChildren();
    for (const [name, text] of [["strong", line.name], ["span", `${age}: `], ["b", value]]) {
      tip.append(Object.assign(document.createElement(name), { textContent: text }));
    }
    ring.setAttribute("class", line.hue === undefined ? "near" : `near hue${line.hue}`);
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
    svg.append(ring);
    tip.hidden = false;
    // Beside the point, and within the figure: on the side that has more room.
    const scale = svg.clientWidth / svg.viewBox.baseVal.width;
    const top = svg.getBoundingClientRect().top - figure.getBoundingClientRect().top;
    const room = figure.clientWidth - tip.offsetWidth;
    const beside = x * scale > figure.clientWidth / 2 ? -tip.offsetWidth - 12 : 12;
    tip.style.left = `${Math.min(Math.max(x * scale + beside, 0), room)}px`;
    tip.style.top = `${Math.max(top + y * scale - tip.offsetHeight - 8, 0)}px`;
  };

  const nearest = (event) => {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale;
    const y = (event.clientY - box.top) * scale;
    let best = 0;
    let least = Infinity;
    points.forEach(([, px, py], index) => {
      const far = Math.hypot(px - x, (py - y) / 2); // the age under the pointer counts more
      if (far < least) [best, least] = [index, far];
    });
    show(best);
  };

  const step = (event) => {
    const start = Math.max(shown, 0);
    const [row, x] = points[start];
    const moves = { ArrowLeft: -1, ArrowRight: 1 };
    if (event.key === "Escape") return hide();
    if (event.key in moves) {
      const next = shown < 0 ? start : start + moves[event.key];
      if (points[next]?.[0] === row) show(next);
    } else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const other = (row + (event.key === "ArrowUp" ? -1 : 1) + lines.length) % lines.length;
      const own = points.map((each, index) => [Math.abs(each[1] - x), index, each[0]]);
      show(own.filter((each) => each[2] === other).sort((a, b) => a[0] - b[0])[0][1]);
    } else {
      return;
    }
    event.preventDefault();
  };

  svg.addEventListener("pointermove", nearest);
  svg.addEventListener("pointerdown", nearest);
  svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  svg.addEventListener("keydown", step);
  svg.addEventListener("focus", () => svg.matches(":focus-visible") && show(0));
  svg.addEventListener("blur", hide);
}
