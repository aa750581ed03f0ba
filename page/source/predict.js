// Part 4: a quiz of one tap. Six samples, one for each region of the plane, in a random order.

const cases = [
  { w: 0.6, A: 1 },
  { w: 1.1, A: 1 },
  { w: 1.5, A: 1 },
  { w: 0.6, A: -1 },
  { w: 1.1, A: -1 },
  { w: 1.5, A: -1 },
];
const quiz = { order: [], place: 0, right: 0, said: "" };

function casePlaces(i) {
  return {
    w: nearest(data.ratios, cases[i].w),
    A: nearest(data.advantages, cases[i].A),
    epsilon: nearest(data.epsilons, 0.2),
  };
}

function shuffled(length) {
  const order = Array.from({ length }, (_, i) => i);
  for (let i = length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

function restartQuiz() {
  Object.assign(quiz, { order: shuffled(cases.length), place: 0, right: 0, said: "" });
}

function startPredict() {
  restartQuiz();
  for (const button of all("[data-answer]")) {
    button.addEventListener("click", () => giveAnswer(button.dataset.answer));
  }
  byId("next-case").addEventListener("click", () => {
    if (quiz.place + 1 < cases.length) {
      Object.assign(quiz, { place: quiz.place + 1, said: "" });
    } else {
      restartQuiz();
    }
    drawPredict();
  });
  drawPredict();
}

function giveAnswer(letter) {
  if (quiz.said) {
    return;
  }
  quiz.said = letter;
  if (letter === setOf(casePlaces(quiz.order[quiz.place]))) {
    quiz.right += 1;
  }
  drawPredict();
}

function drawPredict() {
  const i = quiz.order[quiz.place];
  const { w, A } = cases[i];
  const truth = setOf(casePlaces(i));
  byId("asked").textContent = `w = ${written(w)}, A = ${written(A)}, ε = 0.20`;
  for (const button of all("[data-answer]")) {
    const letter = button.dataset.answer;
    button.classList.toggle("right", Boolean(quiz.said) && letter === truth);
    button.classList.toggle("wrong", letter === quiz.said && letter !== truth);
    button.setAttribute("aria-pressed", letter === quiz.said);
  }
  const isLast = quiz.place + 1 === cases.length;
  byId("next-case").textContent = isLast ? "Start again" : "Next sample";
  byId("next-case").disabled = !quiz.said;
  const answered = quiz.place + (quiz.said ? 1 : 0);
  byId("score").textContent = `${quiz.right} of ${answered} right, ${cases.length - answered} to go`;
  if (!quiz.said) {
    byId("answer").replaceChildren();
    return;
  }
  const name = setNames[truth];
  const verdict = quiz.said === truth ? "✓ Right: " : "✗ No: it is ";
  const why = element("p", {}, verdict, element("b", { class: name }, name), ". ", reason(truth, A));
  const sum = element("p", { class: "sum" }, withIndex(sumInWords("klip", casePlaces(i))));
  byId("answer").replaceChildren(why, sum);
}
