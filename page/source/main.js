// The whole page: parts, projector, colours, keys.

function showPart(part) {
  choose({ part });
  if (!state.projector) {
    byId(`part-${part}`).scrollIntoView();
  }
}

function toggleProjector() {
  choose({ projector: state.projector ? "" : "1" });
  if (!state.projector) {
    byId(`part-${state.part}`).scrollIntoView();
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
  0: () => choose({ form: "all" }),
  1: () => choose({ form: "clip" }),
  2: () => choose({ form: "phi" }),
  3: () => choose({ form: "klip" }),
  4: () => choose({ form: "kl_scalar" }),
  r: nextRule,
  f: toggleWhole,
  p: toggleProjector,
  d: toggleTheme,
};

/** What turns pages on a projector: the keys that a presenter's remote control sends. */
function turnPage(event) {
  const steps = { PageDown: 1, PageUp: -1 };
  if (!state.projector || !(event.key in steps)) {
    return;
  }
  event.preventDefault();
  const part = Number(state.part) + steps[event.key];
  if (part >= 1 && part <= 5) {
    showPart(part);
  }
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") {
    return;
  }
  if (event.key === "Escape" && state.projector) {
    toggleProjector();
  } else if (event.key in keys) {
    keys[event.key]();
  } else {
    turnPage(event);
  }
}

function start() {
  readAddress();
  startScript();
  startSample();
  startPredict();
  startScalar();
  startCompare();
  drawers.push(drawPage);
  for (const button of all("[data-part]")) {
    button.addEventListener("click", () => showPart(button.dataset.part));
  }
  byId("projector").addEventListener("click", toggleProjector);
  byId("theme").addEventListener("click", toggleTheme);
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", () => {
    readAddress();
    draw();
  });
  draw();
  if (state.part !== "1" && !state.projector) {
    byId(`part-${state.part}`).scrollIntoView();
  }
}

start();
