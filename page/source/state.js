"use strict";

// What the reader has chosen. It is kept in the page's address, so that a view can be shared.

const data = JSON.parse(document.getElementById("data").textContent);

const defaults = {
  part: "1",
  epoch: "0",
  form: "all",
  whole: "",
  w: "1.5",
  A: "1",
  epsilon: "0.2",
  show: "clip,phi,klip",
  other: "",
  beta: "1",
  left: "clip",
  right: "klip",
  projector: "",
  theme: "",
};

const state = { ...defaults };
let addressTimer = 0;
const drawers = []; // functions without arguments, which bring a part of the page up to date

function byId(id) {
  return document.getElementById(id);
}

function all(selector) {
  return Array.from(document.querySelectorAll(selector));
}

/** A new element with these attributes and children. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** What may stand in the address for a name; other values give way to the default. */
function isAllowed(name, value) {
  const rules = Array.from(byId("rule").options, (option) => option.value);
  const scripts = ["clip", "phi", "klip", "kl_scalar", ...rules.filter(Boolean)];
  if (name === "form") {
    return value === "all" || scripts.includes(value);
  }
  if (name === "left" || name === "right") {
    return scripts.includes(value);
  }
  if (name === "other") {
    return rules.includes(value);
  }
  if (name === "part") {
    return ["1", "2", "3", "4", "5", "6", "7"].includes(value);
  }
  if (name === "epoch") {
    return /^\d+$/.test(value) && Number(value) <= lastEpoch;
  }
  if (name === "theme") {
    return ["", "dark", "light"].includes(value);
  }
  if (["w", "A", "epsilon", "beta"].includes(name)) {
    return value !== "" && Number.isFinite(Number(value));
  }
  return true;
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(defaults)) {
    const value = given.get(name);
    const fits = value !== null && isAllowed(name, value);
    state[name] = fits ? value : defaults[name];
  }
}

function writeAddress() {
  const chosen = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (value !== defaults[name]) {
      chosen.set(name, value);
    }
  }
  const hash = chosen.toString().replaceAll("%2C", ",");
  try {
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  } catch {
    // Safari allows 100 in ten seconds; the next change writes what this one could not
  }
}

function writeAddressSoon() {
  clearTimeout(addressTimer);
  addressTimer = setTimeout(writeAddress, 300);
}

function draw() {
  for (const drawer of drawers) {
    drawer();
  }
}

/** Change what is chosen: the address and the page follow. */
function choose(changes) {
  for (const [name, value] of Object.entries(changes)) {
    state[name] = String(value);
  }
  draw();
  writeAddressSoon();
}

/** The place in a list of numbers that is nearest to a value. */
function nearest(numbers, value) {
  let best = 0;
  for (let i = 1; i < numbers.length; i++) {
    if (Math.abs(numbers[i] - value) < Math.abs(numbers[best] - value)) {
      best = i;
    }
  }
  return best;
}

/** A number to the digits that the page writes, so that written sums add up. */
function rounded(number) {
  return Number(number.toFixed(3));
}

/** A number as the page writes it: two or three digits, a real minus sign, 0 for nothing. */
function written(number) {
  if (rounded(number) === 0) {
    return "0";
  }
  return number.toFixed(3).replace(/0$/, "").replace("-", "−");
}
