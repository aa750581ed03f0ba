// Part 3: six samples, of which the reader says what they do before the page does.

const cases = [
  { w: 0.6, A: 1 },
  { w: 1.1, A: 1 },
  { w: 1.5, A: 1 },
  { w: 0.6, A: -1 },
  { w: 1.1, A: -1 },
  { w: 1.5, A: -1 },
];
const answered = new Map(); // case to { set, push }, as the reader said

function casePlaces(i) {
  return {
    w: nearest(data.ratios, cases[i].w),
    A: nearest(data.advantages, cases[i].A),
    epsilon: nearest(data.epsilons, 0.2),
  };
}

/** What is true of a case, by the scripts. */
function truth(i) {
  const at = casePlaces(i);
  return { set: setOf(at), push: String(Math.sign(valueOf("klip", "coefficient", at))) };
}

function startPredict() {
  const grid = byId("cases");
  grid.append(element("span"));
  for (const title of ["w < 1 − ε", "in the band", "w > 1 + ε"]) {
    grid.append(element("span", {}, title));
  }
  cases.forEach((sample, i) => {
    if (i % 3 === 0) {
      grid.append(element("span", {}, sample.A > 0 ? "A > 0" : "A < 0"));
    }
    const button = element("button", { type: "button", "data-case": i });
    button.addEventListener("click", () => choose({ case: i }));
    grid.append(button);
  });
  byId("next-case").addEventListener("click", () => {
    choose({ case: (Number(state.case) + 1) % cases.length });
  });
  byId("question").addEventListener("submit", (event) => {
    event.preventDefault();
    const given = new FormData(event.target);
    answered.set(Number(state.case), { set: given.get("set"), push: given.get("push") });
    draw();
  });
  drawers.push(drawPredict);
}

/** The verdict on an answer, then the truth. */
function drawAnswer(i) {
  const said = answered.get(i);
  const box = byId("answer");
  if (!said) {
    box.replaceChildren();
    return;
  }
  const { set, push } = truth(i);
  const verdict = [];
  if (said.set) {
    verdict.push(said.set === set ? "✓ The set is right." : "✗ The set is another.");
  }
  if (said.push) {
    verdict.push(said.push === push ? "✓ The gradient is right." : "✗ The gradient is another.");
  }
  const name = setNames[set];
  const why = element("p", {}, element("b", { class: name }, name), ". ");
  why.append(reason(set, cases[i].A));
  const sum = element("p", { class: "sum" }, withIndex(sumInWords("klip", casePlaces(i))));
  box.replaceChildren(element("p", {}, verdict.join(" ")), why, sum);
}

function drawPredict() {
  const current = Number(state.case);
  for (const button of all("#cases button")) {
    const i = Number(button.dataset.case);
    const name = answered.has(i) ? setNames[truth(i).set] : "";
    const sample = `w = ${cases[i].w}`;
    button.className = name;
    button.setAttribute("aria-current", i === current);
    button.replaceChildren(sample, element("b", {}, name || "?"));
    button.setAttribute("aria-label", `${sample}, A = ${cases[i].A}: ${name || "not answered"}`);
  }
  const { w, A } = cases[current];
  byId("asked").textContent = `w = ${written(w)}, A = ${written(A)}`;
  const question = byId("question");
  if (question.dataset.asks !== state.case) {
    question.reset();
    question.dataset.asks = state.case;
  }
  drawAnswer(current);
}
