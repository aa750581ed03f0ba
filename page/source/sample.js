// Part 3: one sample in the plane of w and A, what each form says of it, and the proof.

const titles = { clip: "min", phi: "Φ", klip: "β_t" };
const notes = {
  dppo: ", in a state with a KL of 1",
  dual_clip: ", differs from min beyond w = 3 only",
  closed_form_kl: ", and its KL pulls at the whole state besides",
};

/** The places in the tables of the sample that is chosen. */
function samplePlaces() {
  return {
    w: nearest(data.ratios, Number(state.w)),
    A: nearest(data.advantages, Number(state.A)),
    epsilon: nearest(data.epsilons, Number(state.epsilon)),
  };
}

/** A form's curve over w, "objective" or "coefficient", as ppo_loss gave it. */
function curveOf(form, quantity, at) {
  const curve = data.curves[data.forms[form][quantity][at.epsilon][at.A]];
  const size = Math.abs(data.advantages[at.A]) || 1; // curves are stored per |A|
  return curve.map((value) => (value * size) / data.scale);
}

function valueOf(form, quantity, at) {
  return curveOf(form, quantity, at)[at.w];
}

function setOf(at) {
  return data.sets[at.epsilon][at.A][at.w];
}

function shownForms() {
  const wanted = state.show.split(",");
  const shown = ["clip", "phi", "klip"].filter((form) => wanted.includes(form));
  return state.other ? [...shown, state.other] : shown;
}

function curveClass(form) {
  return form in titles ? form : "other";
}

const slidersOfSample = { w: "ratios", A: "advantages", epsilon: "epsilons" };

function startSample() {
  for (const [id, list] of Object.entries(slidersOfSample)) {
    const slider = byId(id);
    slider.min = 0;
    slider.max = data[list].length - 1;
    slider.addEventListener("input", () => choose({ [id]: data[list][slider.value] }));
  }
  for (const box of all("[name=show]")) {
    box.addEventListener("change", () => {
      const checked = all("[name=show]:checked").map((other) => other.value);
      choose({ show: checked.join(",") });
    });
  }
  byId("other").addEventListener("change", (event) => choose({ other: event.target.value }));
  startDragging(byId("plane"), () => planeFrame);
  drawers.push(drawSample);
}

/** Let a sample be moved in a chart, whose x is w, or what toRatio makes a w of. */
function startDragging(svg, frame, toRatio = (x) => x) {
  const moveHere = (event) => {
    const place = new DOMPoint(event.clientX, event.clientY);
    const { x, y } = place.matrixTransform(svg.getScreenCTM().inverse());
    const chart = frame();
    const w = data.ratios[nearest(data.ratios, toRatio(chart.fromX(x)))];
    const A = data.advantages[nearest(data.advantages, chart.fromY(y))];
    choose({ w, A });
  };
  svg.addEventListener("pointerdown", (event) => {
    svg.setPointerCapture(event.pointerId);
    moveHere(event);
  });
  svg.addEventListener("pointermove", (event) => {
    if (svg.hasPointerCapture(event.pointerId)) {
      moveHere(event);
    }
  });
  svg.addEventListener("keydown", (event) => {
    const steps = {
      ArrowLeft: ["w", -1],
      ArrowRight: ["w", 1],
      ArrowDown: ["A", -1],
      ArrowUp: ["A", 1],
    };
    if (!(event.key in steps)) {
      return;
    }
    event.preventDefault();
    const [name, step] = steps[event.key];
    const list = data[slidersOfSample[name]];
    const place = samplePlaces()[name] + step;
    if (place >= 0 && place < list.length) {
      choose({ [name]: list[place] });
    }
  });
}

/** Of letters in a chart, as the style has it. */
function fontSize() {
  return state.projector ? 28 : 18;
}

/** Where a chart's frame ends; a projector has less room, for the numbers stand below. */
function chartBottom() {
  return state.projector ? 230 : 256;
}

let planeFrame = null; // the latest chart of the plane, which turns pixels into w and A

function drawPlane(at) {
  const epsilon = data.epsilons[at.epsilon];
  const top = 1.9; // above what can be dragged, for the names of the sets
  const chart = startChart(byId("plane"), {
    x: [0, 2],
    y: [-top, top],
    xTicks: [0, 1, 2],
    yTicks: [-1, 0, 1],
    xName: "ratio w",
    yName: "advantage A",
    bottom: chartBottom(),
  });
  planeFrame = chart;
  const edges = [0, 1 - epsilon, 1 + epsilon, 2];
  for (const [first, last] of [[0, top], [-top, 0]]) {
    const row = data.sets[at.epsilon][nearest(data.advantages, (first + last) / 2)];
    for (let i = 0; i < 3; i++) {
      const range = [edges[i], edges[i + 1]];
      const middle = (range[0] + range[1]) / 2;
      const letter = row[nearest(data.ratios, middle)];
      drawRegion(chart, letter, range, [first, last]);
      const nameY = first === 0 ? chart.box.top + fontSize() : chart.box.bottom - 10;
      drawSetName(chart, letter, chart.toX(middle), nameY);
    }
  }
  drawAxes(chart);
  const set = setOf(at);
  drawMark(chart, set, data.ratios[at.w], data.advantages[at.A], 1.7);
}

/** One of the two charts over w: every shown form's curve, and the sample on it. */
function drawCurves(svg, quantity, at, height) {
  const chart = startChart(svg, {
    x: [0, 2],
    y: [-height, height],
    xTicks: [0, 1, 2],
    yTicks: [1 - height, 0, height - 1],
    xName: "ratio w",
    yName: quantity === "objective" ? "objective" : "coefficient of ∇log π",
    bottom: chartBottom(),
  });
  const epsilon = data.epsilons[at.epsilon];
  const edges = [0, 1 - epsilon, 1 + epsilon, 2];
  for (let i = 0; i < 3; i++) {
    const range = [edges[i], edges[i + 1]];
    const middle = nearest(data.ratios, (range[0] + range[1]) / 2);
    drawRegion(chart, data.sets[at.epsilon][at.A][middle], range, [-height, height]);
  }
  drawAxes(chart);
  for (const form of shownForms()) {
    drawCurve(chart, data.ratios, curveOf(form, quantity, at), curveClass(form));
  }
  const w = data.ratios[at.w];
  for (const form of shownForms()) {
    const value = valueOf(form, quantity, at);
    if (quantity === "objective") {
      drawSlope(chart, w, value, valueOf(form, "coefficient", at) / w);
    }
    drawMark(chart, setOf(at), w, value, 1.3);
  }
  svg.setAttribute("aria-label", chartInWords(quantity, at));
}

/** The slope that autograd sees: d objective / d w = c / w, for d log pi / d w = 1 / w. */
function drawSlope(chart, w, value, slope) {
  const reach = 0.28;
  const ends = [w - reach, w + reach].map((x) => {
    return `${chart.toX(x)} ${chart.toY(value + slope * (x - w))}`;
  });
  const attributes = { d: `M${ends[0]}L${ends[1]}`, class: "slope" };
  attributes["clip-path"] = `url(#${chart.svg.id}-frame)`;
  chart.svg.append(svgElement("path", attributes));
}

function chartInWords(quantity, at) {
  const values = shownForms().map((form) => {
    return `${titles[form] || form} ${written(valueOf(form, quantity, at))}`;
  });
  return `The ${quantity} over w, at the sample: ${values.join(", ")}`;
}

/** Why a sample of this set pushes as it does. */
function reason(set, A) {
  const action = A > 0 ? "A good action" : "A bad action";
  if (A === 0) {
    return "An action as good as expected: nothing to push.";
  }
  if (set === "i") {
    return `${action}, and w is in the band: it pushes with w A.`;
  }
  if (set === "k") {
    const moved = A > 0 ? "likelier" : "less likely";
    return `${action} that has already become ${moved} than the band allows: no further push.`;
  }
  const moved = A > 0 ? "less likely" : "likelier";
  return `${action} that has become ${moved}: the clip lets it push its way back.`;
}

/** "w A + β_t = 1.50 − 1.50 = 0", from the coefficient that ppo_loss gave. */
function sumInWords(form, at) {
  const c = rounded(valueOf(form, "coefficient", at));
  const product = rounded(data.ratios[at.w] * data.advantages[at.A]);
  const beta = c - product;
  const sign = beta > 0.0005 ? "+" : "−";
  const symbol = form === "klip" ? "β_t" : "β";
  return `w A + ${symbol} = ${written(product)} ${sign} ${written(Math.abs(beta))} = ${written(c)}`;
}

/** Rows of words and numbers about the objectives that are drawn. */
function objectivesInWords(at) {
  const product = rounded(data.ratios[at.w] * data.advantages[at.A]);
  const logprob = data.oldLogprob + Math.log(data.ratios[at.w]);
  const rows = [];
  for (const form of shownForms()) {
    const value = rounded(valueOf(form, "objective", at));
    const beta = rounded(valueOf(form, "coefficient", at)) - product;
    const sign = beta > 0.0005 ? "+" : "−";
    if (form === "clip") {
      rows.push(["min", `min(w A, clip(w) A) = ${written(value)}`]);
    } else if (form === "phi") {
      const phi = product - value;
      rows.push(["Φ", `w A − Φ = ${written(product)} − ${written(phi)} = ${written(value)}`]);
    } else if (form === "klip") {
      const penalty = `${sign} ${written(Math.abs(beta))} · (${written(logprob)})`;
      rows.push(["β_t", `w A + β_t log π = ${written(product)} ${penalty} = ${written(value)}`]);
    } else {
      const note = notes[form] || "";
      rows.push([form, `${sumInWords(form, at)}; objective ${written(value)}${note}`]);
    }
  }
  return rows;
}

/** Text in which "β_t" becomes a letter with an index. */
function withIndex(text) {
  const span = element("span");
  text.split("β_t").forEach((part, i) => {
    if (i > 0) {
      span.append("β", element("sub", {}, "t"));
    }
    span.append(part);
  });
  return span;
}

/** The proof in three lines; in "[...]" stand the terms that belong to this sample. */
function proofInWords(at) {
  const w = data.ratios[at.w];
  const A = data.advantages[at.A];
  const product = rounded(w * A);
  const c = rounded(valueOf("klip", "coefficient", at));
  const beta = rounded(c - product);
  const sign = beta > 0.0005 ? "+" : "−";
  const turned = A > 0 ? "A > 0, so β_t is negative" : "A < 0, so β_t is positive";
  const weight = setOf(at) === "k" ? `−w A = ${written(beta)}] (${turned})` : "0], because the sample is not killed";
  const inside = `${written(product)} ${sign} ${written(Math.abs(beta))}`;
  return [
    `This sample’s KL is −log w = [−log ${written(w)} = ${written(-Math.log(w))}].`,
    `A penalty of weight β_t on it adds β_t log w to w A. Here β_t = [${weight}.`,
    `The gradient is (w A + β_t) ∇log π = [(${inside}) ∇log π = ${c ? `${written(c)} ∇log π` : "0"}].`,
  ];
}

function drawProof(at) {
  const name = setNames[setOf(at)];
  const lines = proofInWords(at).map((line, i) => {
    const [before, lit, after] = line.split(/[[\]]/);
    const term = element("b", { class: name }, withIndex(lit));
    return element("li", i === 2 ? { id: "sum" } : {}, withIndex(before), term, withIndex(after));
  });
  byId("proof").replaceChildren(...lines);
}

function drawReading(at) {
  const set = setOf(at);
  const name = setNames[set];
  const reading = byId("reading");
  reading.style.setProperty("--set", `var(--${name})`);
  const why = element("p", { id: "why" }, element("b", { class: name }, name), ". ");
  why.append(reason(set, data.advantages[at.A]));
  const table = element("table");
  for (const [form, text] of objectivesInWords(at)) {
    const cells = [element("td", {}, withIndex(form)), element("td", {}, withIndex(text))];
    table.append(element("tr", {}, ...cells));
  }
  reading.replaceChildren(why, table);
}

function drawSample() {
  const at = samplePlaces();
  for (const [id, list] of Object.entries(slidersOfSample)) {
    byId(id).value = at[id];
    const text = written(data[list][at[id]]);
    byId(id).setAttribute("aria-valuetext", text);
    byId(id).nextElementSibling.textContent = text;
  }
  for (const box of all("[name=show]")) {
    box.checked = state.show.split(",").includes(box.value);
  }
  byId("other").value = state.other;
  drawPlane(at);
  drawCurves(byId("objective"), "objective", at, 4);
  drawCurves(byId("coefficient"), "coefficient", at, 3);
  drawProof(at);
  drawReading(at);
}
