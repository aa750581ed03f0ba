// Part 2: the script, with the block of the form that is chosen.

const forms = ["clip", "phi", "klip", "kl_scalar"];

/** Move every block into the script, where one of them is shown. */
function startScript() {
  byId("slot").append(...all("#all-blocks .block"));
  byId("all-blocks").remove();
  for (const button of all("[data-form]")) {
    button.addEventListener("click", () => chooseForm(button.dataset.form));
  }
  byId("rule").addEventListener("change", (event) => {
    chooseForm(event.target.value || "all");
  });
  byId("whole").addEventListener("click", toggleWhole);
  drawers.push(drawScript);
}

/** Show a loss, where it can be seen. */
function chooseForm(form) {
  choose({ form });
  showSlot();
}

/** Turn to part 2, and scroll as far as its marked lines need. */
function showSlot() {
  const isCut = () => {
    const { top, bottom } = byId("slot").getBoundingClientRect();
    return bottom > innerHeight || top < 60;
  };
  if (state.part !== "2" || isCut()) {
    showPart("2");
  }
  if (isCut()) {
    byId("slot").scrollIntoView({ block: "center" });
  }
}

function toggleWhole() {
  choose({ whole: state.whole ? "" : "1" });
  showSlot();
}

/** The name under which a form's script is found. */
function fileName(form) {
  if (forms.includes(form)) {
    return `ppo_${form}_continuous.py`;
  }
  return `python rules/insert.py ${form}`;
}

/** The lines of the script that is shown, in order. */
function shownLines() {
  return all("#listing .line").filter((line) => !line.closest("[hidden]"));
}

function drawScript() {
  const form = state.form;
  for (const button of all("[data-form]")) {
    button.setAttribute("aria-pressed", button.dataset.form === form);
  }
  byId("rule").value = forms.includes(form) || form === "all" ? "" : form;
  byId("whole").setAttribute("aria-pressed", Boolean(state.whole));
  document.documentElement.classList.toggle("whole", Boolean(state.whole));
  const listing = byId("listing");
  const shown = form + state.whole;
  if (listing.dataset.shown === shown) {
    return;
  }
  listing.dataset.shown = shown;
  byId("file-name").textContent = form === "all" ? "" : fileName(form);
  byId("aligned").hidden = form !== "all";
  for (const block of all("#slot .block")) {
    block.hidden = block.dataset.name !== form;
  }
  for (const line of all(".only-scalar")) {
    line.hidden = form !== "kl_scalar";
  }
  if (listing.dataset.whole !== state.whole) {
    listing.dataset.whole = state.whole;
    for (const fold of all(".fold")) {
      fold.open = Boolean(state.whole);
    }
  }
  listing.classList.toggle("numbered", form !== "all");
  listing.classList.toggle("is-rule", form !== "all" && !forms.includes(form));
  listing.classList.toggle("is-all", form === "all");
  shownLines().forEach((line, i) => {
    line.dataset.number = i + 1;
  });
}

/** The rule after the one that is shown. */
function nextRule() {
  const options = Array.from(byId("rule").options, (option) => option.value);
  const place = options.indexOf(byId("rule").value);
  const next = place + 1 < options.length ? place + 1 : 1;
  chooseForm(options[next]);
}
