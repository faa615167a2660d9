"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  // Okabe and Ito's palette, in the order of the static picture.
  const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
  const SVG = "http://www.w3.org/2000/svg";
  // Pixels: marks this close are named together, and the pointer catches a mark from this far.
  const NEAR = 7, CATCH = 26;

  function element(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function drawn(name, attributes, parent) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (parent) parent.append(made);
    return made;
  }

  function polygon(corners, r, turn) {
    const points = [];
    for (let i = 0; i < corners; i++) {
      const angle = (2 * Math.PI * i) / corners + turn - Math.PI / 2;
      points.push(`${(r * Math.cos(angle)).toFixed(2)},${(r * Math.sin(angle)).toFixed(2)}`);
    }
    return `M${points.join("L")}Z`;
  }

  function star(r) {
    const points = [];
    for (let i = 0; i < 10; i++) {
      const angle = (Math.PI * i) / 5 - Math.PI / 2, length = i % 2 ? r * 0.45 : r;
      points.push(`${(length * Math.cos(angle)).toFixed(2)},${(length * Math.sin(angle)).toFixed(2)}`);
    }
    return `M${points.join("L")}Z`;
  }

  function cross(r, turn) {
    const w = r * 0.36, base = [[-w, -r], [w, -r], [w, -w], [r, -w], [r, w], [w, w], [w, r], [-w, r], [-w, w], [-r, w], [-r, -w], [-w, -w]];
    const c = Math.cos(turn), s = Math.sin(turn);
    return `M${base.map(([x, y]) => `${(x * c - y * s).toFixed(2)},${(x * s + y * c).toFixed(2)}`).join("L")}Z`;
  }

  // The order of the static picture's markers: circle, square, triangles, diamond, crosses, star, hexagon.
  const SHAPES = [
    (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`,
    (r) => polygon(4, r * 1.25, Math.PI / 4),
    (r) => polygon(3, r * 1.3, 0),
    (r) => polygon(4, r * 1.25, 0),
    (r) => polygon(3, r * 1.3, Math.PI),
    (r) => cross(r * 1.15, 0),
    (r) => cross(r * 1.15, Math.PI / 4),
    (r) => polygon(3, r * 1.3, -Math.PI / 2),
    (r) => polygon(3, r * 1.3, Math.PI / 2),
    (r) => star(r * 1.4),
    (r) => polygon(6, r * 1.1, 0),
  ];
  const shape = (index, r) => SHAPES[index % SHAPES.length](r);

  const percent = (value) => `${(100 * value).toFixed(1)} %`;
  function short(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e6 || size < 1e-3) {
      const power = Math.floor(Math.log10(size) + 1e-9), base = value / 10 ** power;
      if (size >= 1e6 && size < 1e9) return `${Number((value / 1e6).toPrecision(3))} M`;
      return `${Number(base.toPrecision(3))}e${power}`;
    }
    return size >= 100 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
  }

  // ---- theme
  const theme = document.getElementById("theme");
  const THEMES = ["automatic", "light", "dark"];
  let current = 0;
  theme.hidden = false;
  theme.addEventListener("click", () => {
    current = (current + 1) % THEMES.length;
    if (current) document.documentElement.dataset.theme = THEMES[current];
    else delete document.documentElement.dataset.theme;
    theme.textContent = `Theme: ${THEMES[current]}`;
  });

  // ---- data: rows of numbers, every text once
  for (const panel of data.panels) {
    for (const curve of panel.curves) {
      curve.points = curve.points.map((row) => {
        const point = Object.fromEntries(data.point.map((key, i) => [key, row[i]]));
        const costs = data.costs.map(([key], i) => [key, row[data.point.length + i]]).filter(([, value]) => value !== null);
        return { ...point, x: Object.fromEntries(costs), seed: curve.seed, draws: curve.draws, settings: curve.settings };
      });
    }
  }
  const signed = (tenths) => `${tenths < 0 ? "-" : "+"}${(Math.abs(tenths) / 10).toFixed(1)}`;

  // ---- tables
  const NUMBER = /-?\d[\d.]*(?:e[+-]?\d+)?/;
  function numberIn(text) {
    const found = text.replaceAll(",", "").match(NUMBER);
    return found ? Number(found[0]) : null;
  }

  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    heads.forEach((head, column) => {
      const button = element("button", { type: "button" }, head.textContent);
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const numeric = !head.classList.contains("text");
        const before = head.getAttribute("aria-sort");
        const down = before === "none" ? numeric : before === "ascending";
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => {
          const cell = row.cells[column];
          return numeric ? numberIn(cell.textContent) : cell.textContent.toLowerCase();
        };
        const rows = [...body.rows].map((row) => [key(row), row]);
        rows.sort(([a], [b]) => {
          if (a === null || b === null) return (a === null) - (b === null);
          const order = a < b ? -1 : a > b ? 1 : 0;
          return down ? -order : order;
        });
        body.append(...rows.map(([, row]) => row));
      });
    });
  }
  document.querySelectorAll("table.sortable").forEach(sortable);

  // ---- the choice of a baseline
  document.querySelectorAll(".board").forEach((board) => {
    const index = Number(board.dataset.section);
    const claims = data.claims[index];
    const line = document.querySelector(`.baseline-line[data-section="${index}"]`);
    const names = Object.keys(claims.by);
    if (!line.querySelector("span") && !names.length) return;
    const select = element("select", {});
    for (const name of names) select.append(element("option", { value: name }, name));
    const chosen = line.querySelector("span");
    if (chosen) select.value = chosen.textContent;
    else select.prepend(element("option", { value: "", selected: "" }, "none"));
    line.replaceChildren(element("label", {}, "Baseline: ", select));
    const heads = [...board.querySelectorAll("thead th")].map((head) => head.textContent);
    const [atDifference, atQ, atVerdict] = ["Against the baseline at equal tokens", "q", "Verdict"].map((name) => heads.indexOf(name));
    const place = new Map(claims.cells.map((cell, i) => [cell, i]));
    select.addEventListener("change", () => {
      const found = claims.by[select.value];
      if (!found) return;
      for (const row of board.querySelectorAll("tbody tr")) {
        const claim = found[place.get(row.dataset.cell)];
        const verdict = data.words[typeof claim === "number" ? claim : claim[4]], word = row.cells[atVerdict];
        row.cells[atDifference].textContent = typeof claim === "number" ? "-" : `${signed(claim[0])} [${signed(claim[1])}, ${signed(claim[2])}]`;
        row.cells[atQ].textContent = typeof claim === "number" ? "-" : data.words[claim[3]];
        word.textContent = verdict;
        word.classList.toggle("better", verdict === "better");
        word.classList.toggle("worse", verdict === "worse");
        row.classList.toggle("baseline", verdict === "baseline");
      }
    });
  });

  // ---- what every cell did with a problem: drawn when it is opened
  const OUTCOME_HEADS = [["Strategy", "text"], ["Budget", ""], ["Outcome", "text"], ["Score %", ""], ["Answer", "text"], ["Tokens", ""], ["Grant", ""]];
  function outcomes(place) {
    const section = data.problems[Number(place.dataset.section)], problem = section.problems[Number(place.dataset.problem)];
    const whole = (value) => (value === null || value === undefined ? "-" : value.toLocaleString("en"));
    const score = (kind, part) => (part !== null ? (100 * part).toFixed(1) : kind === "right" ? "100.0" : kind === "failed" ? "-" : "0.0");
    const body = element("tbody");
    problem.outcome.forEach((number, i) => {
      if (number < 0) return;
      const kind = section.outcomes[number], answer = problem.answer[i];
      const texts = [whole(section.budgets[i]), kind, score(kind, problem.score ? problem.score[i] : null), answer < 0 ? "-" : problem.answers[answer], whole(problem.tokens[i]), whole(problem.grant[i])];
      const cells = texts.map((text, at) => element("td", OUTCOME_HEADS[at + 1][1] ? { class: at === 3 ? "text label" : "text" } : {}, text));
      body.append(element("tr", {}, element("th", { scope: "row" }, section.names[i]), ...cells));
    });
    const heads = OUTCOME_HEADS.map(([name, kind]) => element("th", kind ? { scope: "col", class: kind } : { scope: "col" }, name));
    const table = element("table", { class: "sortable" }, element("thead", {}, element("tr", {}, ...heads)), body);
    sortable(table);
    place.replaceChildren(element("div", { class: "scroll", role: "group", "aria-label": place.dataset.caption, tabindex: "0" }, table));
  }
  document.querySelectorAll("details.problem").forEach((details) => {
    const place = details.querySelector(".outcomes");
    details.addEventListener("toggle", () => { if (details.open && !place.firstChild) outcomes(place); });
  });

  // ---- the chart
  const chart = document.getElementById("chart");
  if (!data.panels.some((panel) => panel.curves.length) || !data.costs.length) return;
  const hiddenCurves = new Set();
  const state = { panel: 0, cost: data.costs[0][0], log: true };
  const controls = element("div", { class: "controls" });
  const plot = element("div", { class: "plot" });
  const tip = element("div", { class: "tip", id: "tip", hidden: "" });
  const status = element("p", { class: "sr", "aria-live": "polite" });

  function field(text, id, options, value, change) {
    const select = element("select", { id });
    for (const [key, label] of options) select.append(element("option", { value: key }, label));
    select.value = value;
    select.addEventListener("change", () => change(select.value));
    controls.append(element("label", { class: "field" }, element("span", { class: "dim" }, text), select));
  }

  if (data.panels.length > 1) {
    field("Task and model", "panel", data.panels.map((panel, i) => [String(i), panel.title]), "0", (value) => {
      state.panel = Number(value);
      legend();
      draw();
    });
  }
  field("Cost", "cost", data.costs, state.cost, (value) => { state.cost = value; draw(); });
  field("Scale", "scale", [["log", "logarithmic"], ["linear", "linear"]], "log", (value) => { state.log = value === "log"; draw(); });
  const choices = element("fieldset", { class: "series" });
  controls.append(choices);

  const colour = (curve) => COLOURS[curve.colour % COLOURS.length];
  const id = (curve) => `${state.panel} ${curve.name}`;

  function legend() {
    const list = element("div", { class: "choices" });
    for (const curve of data.panels[state.panel].curves) {
      const box = element("input", { type: "checkbox" });
      box.checked = !hiddenCurves.has(id(curve));
      box.addEventListener("change", () => {
        if (box.checked) hiddenCurves.delete(id(curve));
        else hiddenCurves.add(id(curve));
        draw();
      });
      const sample = drawn("svg", { viewBox: "-13 -8 26 16", "aria-hidden": "true" });
      drawn("line", { x1: -13, x2: 13, stroke: colour(curve), "stroke-width": 2, "stroke-dasharray": curve.oracle ? "5 3" : "none" }, sample);
      drawn("path", { d: shape(curve.marker, 4.5), fill: colour(curve) }, sample);
      list.append(element("label", {}, box, sample, curve.name));
    }
    choices.replaceChildren(element("legend", {}, "Strategies"), list);
  }

  function ticks(low, high, log) {
    const found = [];
    if (log) {
      const steps = high / low > 2000 ? [1] : high / low > 30 ? [1, 2, 5] : [1, 1.5, 2, 3, 5, 7];
      for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
        for (const step of steps) {
          const value = step * 10 ** power;
          if (value >= low && value <= high) found.push(value);
        }
      }
      return found;
    }
    const raw = (high - low) / 7, scale = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].find((s) => s * scale >= raw) * scale;
    for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) found.push(value);
    return found;
  }

  function frontier(curves) {
    // Seeds of one setting are averaged first: the luckiest seed is no method.
    const groups = new Map();
    for (const curve of curves.filter((c) => !c.oracle)) {
      for (const point of curve.points.filter((p) => p.complete && state.cost in p.x)) {
        const key = `${curve.colour} ${curve.marker} ${point.budget}`;
        groups.set(key, [...(groups.get(key) || []), [point.x[state.cost], point.y]]);
      }
    }
    const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
    const points = [...groups.values()].map((found) => [mean(found.map((p) => p[0])), mean(found.map((p) => p[1]))]);
    points.sort((a, b) => a[0] - b[0] || b[1] - a[1]);
    const kept = [];
    for (const point of points) if (!kept.length || point[1] > kept[kept.length - 1][1]) kept.push(point);
    return kept;
  }

  function words(curve, point) {
    const label = data.costs.find(([key]) => key === state.cost)[1];
    const rows = [
      `accuracy ${percent(point.y)}, 95 % interval ${percent(point.low)} to ${percent(point.high)} (${point.wilson ? "Wilson" : "bootstrap"})`,
      `${label}: ${short(point.x[state.cost])}`,
      `n = ${point.n.toLocaleString("en")} problems, budget ${point.budget.toLocaleString("en")}, seed ${point.seed}${point.draws > 1 ? `, ${point.draws} draws` : ""}`,
    ];
    if (point.settings) rows.push(`settings: ${point.settings}`);
    if (point.unanswered || point.errors) rows.push(`${point.unanswered} not answered, ${point.errors} failed`);
    if (curve.oracle) rows.push("oracle: it saw the right answers");
    if (!point.complete) rows.push("incomplete: the numbers may still change");
    return rows;
  }

  let marks = [];
  function show(mark) {
    const same = marks.filter((m) => Math.hypot(m.x - mark.x, m.y - mark.y) < NEAR && m !== mark);
    const rows = words(mark.curve, mark.point);
    tip.replaceChildren(element("strong", {}, mark.curve.name), ...rows.map((row) => element("p", {}, row)));
    if (same.length) tip.append(element("p", { class: "dim" }, `also here: ${same.map((m) => m.curve.name).join("; ")}`));
    tip.hidden = false;
    const room = plot.clientWidth, width = tip.offsetWidth, height = tip.offsetHeight;
    tip.style.left = `${Math.max(4, Math.min(room - width - 4, mark.x - width / 2))}px`;
    tip.style.top = `${mark.y - height - 14 > 0 ? mark.y - height - 14 : mark.y + 16}px`;
  }
  const hide = () => { tip.hidden = true; };

  function draw() {
    hide();
    const panel = data.panels[state.panel];
    const curves = panel.curves.filter((curve) => !hiddenCurves.has(id(curve)));
    const shown = curves.flatMap((curve) => curve.points.filter((p) => state.cost in p.x && p.y !== null).map((point) => ({ curve, point })));
    const width = Math.max(280, plot.clientWidth || 640), height = Math.round(Math.min(480, Math.max(300, width * 0.52)));
    const left = 52, right = 18, top = 16, bottom = 52;
    const svg = drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `Accuracy against cost, ${panel.title}. ${shown.length} points; arrow keys move between them.` });
    marks = [];
    const label = data.costs.find(([key]) => key === state.cost)[1];
    if (!shown.length) {
      drawn("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, svg).textContent = "Nothing to draw: choose a strategy, or a cost that was recorded.";
    } else {
      const xs = shown.map(({ point }) => point.x[state.cost]);
      let low = Math.min(...xs), high = Math.max(...xs);
      if (state.log) {
        const margin = Math.max(1.12, Math.sqrt((3 * low) / high));
        low /= margin; high *= margin;
      } else { low = 0; high *= 1.06; }
      const ys = shown.flatMap(({ point }) => [point.low ?? point.y, point.high ?? point.y]);
      const space = Math.max(0.04 * (Math.max(...ys) - Math.min(...ys)), 0.01);
      const y0 = Math.max(0, Math.min(...ys) - space), y1 = Math.min(1, Math.max(...ys) + space);
      const at = state.log ? (v) => Math.log(v / low) / Math.log(high / low) : (v) => (v - low) / (high - low);
      const x = (v) => left + (width - left - right) * at(v);
      const y = (v) => top + (height - top - bottom) * (1 - (v - y0) / (y1 - y0));
      for (const value of ticks(y0, y1, false)) {
        drawn("line", { class: "gridline", x1: left, x2: width - right, y1: y(value), y2: y(value) }, svg);
        drawn("text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" }, svg).textContent = `${Number((100 * value).toFixed(1))} %`;
      }
      let last = -Infinity;
      for (const value of ticks(low, high, state.log)) {
        drawn("line", { class: "gridline", x1: x(value), x2: x(value), y1: top, y2: height - bottom }, svg);
        const text = short(value), half = text.length * 3.6;
        if (x(value) - half < last + 6 || x(value) + half > width) continue;
        drawn("text", { x: x(value), y: height - bottom + 18, "text-anchor": "middle" }, svg).textContent = text;
        last = x(value) + half;
      }
      if (document.querySelector(".badge")) {
        drawn("text", { class: "brand", x: width - right - 8, y: height - bottom - 12, "text-anchor": "end" }, svg).textContent = "LIMITED RUN";
      }
      const best = frontier(curves);
      if (best.length) {
        let path = `M${x(best[0][0])},${y(best[0][1])}`;
        for (const [cost, value] of best.slice(1)) path += `H${x(cost)}V${y(value)}`;
        drawn("path", { class: "frontier", d: `${path}H${width - right}` }, svg);
        for (const [cost, value] of best) drawn("circle", { class: "halo", cx: x(cost), cy: y(value), r: 12 }, svg);
      }
      for (const curve of curves) {
        const points = curve.points.filter((p) => state.cost in p.x && p.y !== null).sort((a, b) => a.x[state.cost] - b.x[state.cost]);
        const path = points.map((p, i) => `${i ? "L" : "M"}${x(p.x[state.cost])},${y(p.y)}`).join("");
        if (path) drawn("path", { class: `curve${curve.oracle ? " oracle" : ""}`, d: path, stroke: colour(curve) }, svg);
        for (const p of points) {
          if (p.low !== null) drawn("line", { class: "whisker", x1: x(p.x[state.cost]), x2: x(p.x[state.cost]), y1: y(p.low), y2: y(p.high), stroke: colour(curve) }, svg);
        }
      }
      for (const curve of curves) {
        for (const point of curve.points.filter((p) => state.cost in p.x && p.y !== null)) {
          const px = x(point.x[state.cost]), py = y(point.y);
          const group = drawn("g", { class: `point${curve.oracle ? " open" : ""}`, role: "img", tabindex: marks.length ? "-1" : "0", transform: `translate(${px.toFixed(1)},${py.toFixed(1)})`, "aria-label": `${curve.name}: ${words(curve, point).join("; ")}` }, svg);
          group.style.color = colour(curve);
          drawn("circle", { class: "ring", r: 11 }, group);
          drawn("path", { d: shape(curve.marker, 5.5), fill: colour(curve) }, group);
          const mark = { curve, point, x: px, y: py, group };
          marks.push(mark);
          group.addEventListener("focus", () => show(mark));
          group.addEventListener("blur", hide);
          group.addEventListener("keydown", (event) => move(event, mark));
        }
      }
    }
    drawn("text", { class: "axis-title", x: left + (width - left - right) / 2, y: height - 10, "text-anchor": "middle" }, svg).textContent = width < 480 ? label.replace(/ \(.*\)/, "") : label;
    // The nearest mark answers: those below another one could not be pointed at otherwise.
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
      const far = (mark) => Math.hypot(mark.x - px, mark.y - py);
      const nearest = marks.reduce((best, mark) => (best === null || far(mark) < far(best) ? mark : best), null);
      for (const mark of marks) mark.group.classList.toggle("on", mark === nearest && far(mark) < CATCH);
      if (nearest && far(nearest) < CATCH) show(nearest);
      else hide();
    });
    svg.addEventListener("pointerleave", () => {
      for (const mark of marks) mark.group.classList.remove("on");
      hide();
    });
    plot.replaceChildren(svg, tip);
    status.textContent = `${shown.length} points drawn, ${label}, ${state.log ? "logarithmic" : "linear"} scale.`;
  }

  function move(event, mark) {
    const position = marks.indexOf(mark);
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    const next = marks[(position + step + marks.length) % marks.length];
    mark.group.setAttribute("tabindex", "-1");
    next.group.setAttribute("tabindex", "0");
    next.group.focus();
  }

  legend();
  chart.append(controls, plot, status);
  chart.hidden = false;
  document.getElementById("picture").hidden = true;
  draw();
  let drawnWidth = plot.clientWidth;
  new ResizeObserver(() => {
    if (plot.clientWidth !== drawnWidth) { drawnWidth = plot.clientWidth; draw(); }
  }).observe(plot);
})();
