// The whole page: parts, projector, colours, keys.

const lastPart = 7;

function showPart(part) {
  choose({ part });
  if (!state.projector) {
    scrollToPart();
  }
}

function scrollToPart() {
  if (state.part === "1") {
    window.scrollTo(0, 0);
  } else {
    byId(`part-${state.part}`).scrollIntoView();
  }
}

/** The part that is read is the last one whose top has passed the upper third of the window. */
function followScrolling() {
  if (state.projector) {
    return;
  }
  const passed = all("main section").filter((section) => {
    return section.getBoundingClientRect().top < innerHeight / 3;
  });
  const part = passed.length ? passed.at(-1).id.replace("part-", "") : "1";
  if (part !== state.part) {
    state.part = part;
    drawPage();
    writeAddressSoon();
  }
}

function toggleProjector() {
  choose({ projector: state.projector ? "" : "1" });
  if (!state.projector) {
    scrollToPart();
  }
}

function toggleTheme() {
  const prefersDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const isDark = state.theme ? state.theme === "dark" : prefersDark;
  choose({ theme: isDark ? "light" : "dark" });
}

function drawPage() {
  const root = document.documentElement;
  root.classList.toggle("projector", Boolean(state.projector));
  root.dataset.theme = state.theme;
  byId("projector").setAttribute("aria-pressed", Boolean(state.projector));
  for (const button of all("[data-part]")) {
    button.setAttribute("aria-current", button.dataset.part === state.part);
  }
  for (const section of all("main section")) {
    section.classList.toggle("shown", section.id === `part-${state.part}`);
  }
}

const keys = {
  a: () => chooseForm("all"),
  m: () => chooseForm("clip"),
  h: () => chooseForm("phi"),
  b: () => chooseForm("klip"),
  s: () => chooseForm("kl_scalar"),
  r: nextRule,
  f: toggleWhole,
  p: toggleProjector,
  d: toggleTheme,
};

/** What turns pages on a projector: the keys that a presenter's remote control sends. */
function turnPage(event) {
  const steps = { PageDown: 1, PageUp: -1, ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 };
  const isArrow = event.key.startsWith("Arrow");
  const takesArrows = event.target.matches("input, [role=application]");
  if (!state.projector || !(event.key in steps) || (isArrow && takesArrows)) {
    return;
  }
  event.preventDefault();
  const part = Number(state.part) + steps[event.key];
  if (part >= 1 && part <= lastPart) {
    showPart(part);
  }
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") {
    return;
  }
  const key = event.key.toLowerCase(); // with Caps Lock, too
  const isFree = event.target === document.body;
  if (event.key === "Escape" && state.projector) {
    toggleProjector();
  } else if (event.key === " " && isFree && state.projector && state.part === "1") {
    event.preventDefault();
    togglePlay();
  } else if (key in keys) {
    keys[key]();
  } else if (/^[1-7]$/.test(key)) {
    showPart(key);
  } else {
    turnPage(event);
  }
}

function startCopying() {
  for (const button of all(".copy")) {
    const command = button.previousElementSibling;
    button.setAttribute("aria-label", `Copy ${command.textContent}`);
    button.addEventListener("click", () => {
      getSelection().selectAllChildren(command); // so that Ctrl-C works where the next is refused
      const copied = navigator.clipboard?.writeText(command.textContent);
      copied?.then(() => { button.textContent = "Copied"; }, () => {});
    });
  }
}

function start() {
  readAddress();
  startReplay();
  startScript();
  startSample();
  startPredict();
  startScalar();
  startCompare();
  startCopying();
  drawers.unshift(drawPage); // first, for the others measure what it shows
  for (const button of all("[data-part]")) {
    button.addEventListener("click", () => showPart(button.dataset.part));
  }
  byId("projector").addEventListener("click", toggleProjector);
  byId("theme").addEventListener("click", toggleTheme);
  document.addEventListener("keydown", onKey);
  window.addEventListener("scroll", followScrolling, { passive: true });
  window.addEventListener("hashchange", () => {
    readAddress();
    draw();
  });
  draw();
  if (state.part !== "1" && !state.projector) {
    scrollToPart();
  }
}

start();
