// Part 1: one recorded update, sample by sample, under three losses.

const record = data.replay;
const arms = ["klip", "kl_scalar", "none"];
const lastEpoch = record.arms.klip.kill.length - 1;
const viewX = 1.5; // log w from -1.5 to 1.5
const viewY = 3.2; // A
const samplesOf = {}; // arm to the log w of all samples, per epoch
let advantagesDrawn = [];
let shownEpoch = 0; // between two epochs while samples move
let animation = 0;
const replayFrames = {}; // arm to its chart

function fromBytes(text, reach) {
  return Array.from(atob(text), (letter) => (letter.charCodeAt(0) * 2 * reach) / 255 - reach);
}

function setOfRecorded(logRatio, A) {
  const isAbove = logRatio > Math.log(1 + record.clipCoef);
  const isBelow = logRatio < Math.log(1 - record.clipCoef);
  if (!isAbove && !isBelow) {
    return "i";
  }
  return isAbove === A > 0 ? "k" : "p";
}

function prefersStillness() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

function startReplay() {
  advantagesDrawn = fromBytes(record.advantages, record.advantageRange);
  for (const arm of arms) {
    samplesOf[arm] = record.arms[arm].logRatios.map((text) => fromBytes(text, record.logRatioRange));
    new ResizeObserver(() => drawReplayFrame(arm)).observe(byId(`replay-${arm}`));
  }
  byId("play").addEventListener("click", togglePlay);
  byId("epoch").addEventListener("input", () => {
    stopPlaying();
    choose({ epoch: byId("epoch").value });
  });
  startDragging(byId("replay-klip"), () => replayFrames.klip, Math.exp);
  window.addEventListener("beforeprint", () => showEpoch(lastEpoch));
  drawers.push(drawReplay);
  shownEpoch = Number(state.epoch);
}

/** The chart's frame in real pixels: the three sets, the numbers, and a group for the samples. */
function drawReplayFrame(arm) {
  const svg = byId(`replay-${arm}`);
  const width = svg.clientWidth;
  const height = svg.clientHeight;
  if (!width || !height) {
    return;
  }
  const size = parseFloat(getComputedStyle(svg).fontSize);
  const box = { left: 1, right: width - 1, top: 1, bottom: height - size * 1.25 };
  const chart = chartOf(svg, box, [-viewX, viewX], [-viewY, viewY]);
  replayFrames[arm] = chart;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  const edges = [-viewX, Math.log(1 - record.clipCoef), Math.log(1 + record.clipCoef), viewX];
  for (const [first, last] of [[0, viewY], [-viewY, 0]]) {
    for (let i = 0; i < 3; i++) {
      const letter = setOfRecorded((edges[i] + edges[i + 1]) / 2, last);
      drawRegion(chart, letter, [edges[i], edges[i + 1]], [first, last]);
    }
  }
  drawAxes(chart);
  for (const [w, text] of [[0.25, "¼"], [0.5, "½"], [1, "w = 1"], [2, "2"], [4, "4"]]) {
    const place = { x: chart.toX(Math.log(w)), y: height - size * 0.2, "text-anchor": "middle" };
    svg.append(svgElement("text", place, text));
  }
  for (const letter of "ipk") {
    svg.append(svgElement("path", { class: `dots ${setNames[letter]}` }));
  }
  for (const [sign, y] of [[1, box.top + size], [-1, box.bottom - size * 0.4]]) {
    for (const side of [-1, 1]) {
      drawSetName(chart, sign === side ? "k" : "p", chart.toX(side * 0.85), y);
    }
  }
  const signs = [["A > 0", chart.toY(0) - size * 0.4], ["A < 0", chart.toY(0) + size]];
  for (const [text, y] of signs) {
    svg.append(svgElement("text", { x: box.left + 4, y, class: "quiet" }, text));
  }
  svg.append(svgElement("g", { class: "chosen" }));
  drawDots(arm);
  drawChosen();
}

/** All samples of an arm, as one path for each set. */
function drawDots(arm) {
  const chart = replayFrames[arm];
  if (!chart) {
    return;
  }
  const before = Math.floor(shownEpoch);
  const after = Math.min(before + 1, lastEpoch);
  const part = shownEpoch - before;
  const glyphs = { i: "m-2.5 0a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0-5 0", k: "m-3-3l6 6m0-6l-6 6", p: "m0-3.5l3.5 6h-7z" };
  const paths = { i: "", k: "", p: "" };
  advantagesDrawn.forEach((A, i) => {
    const from = samplesOf[arm][before][i];
    const logRatio = from + part * (samplesOf[arm][after][i] - from);
    const letter = setOfRecorded(logRatio, A);
    const x = chart.toX(Math.max(-viewX, Math.min(viewX, logRatio)));
    const y = chart.toY(Math.max(-viewY, Math.min(viewY, A)));
    paths[letter] += `M${x.toFixed(1)} ${y.toFixed(1)}${glyphs[letter]}`;
  });
  for (const letter of "ipk") {
    chart.svg.querySelector(`.dots.${setNames[letter]}`).setAttribute("d", paths[letter]);
  }
}

/** The sample that can be dragged, here and in part 3. */
function drawChosen() {
  const chart = replayFrames.klip;
  if (!chart) {
    return;
  }
  const at = samplePlaces();
  const layer = chart.svg.querySelector(".chosen");
  layer.replaceChildren();
  const x = Math.max(-viewX, Math.log(data.ratios[at.w]));
  const target = { ...chart, svg: layer };
  drawMark(target, setOf(at), x, data.advantages[at.A], 2);
}

function percent(share) {
  return `${Math.round(100 * share)} %`;
}

function showEpoch(epoch) {
  shownEpoch = epoch;
  const whole = Math.floor(epoch);
  byId("epoch").value = isPlaying() ? Math.round(epoch) : state.epoch;
  byId("epoch").setAttribute("aria-valuetext", `epoch ${whole} of ${lastEpoch}`);
  byId("epoch-text").textContent = `epoch ${whole} of ${lastEpoch}`;
  for (const tally of all(".tally")) {
    const { kill, largest, weights } = record.arms[tally.dataset.arm];
    const share = element("b", { class: "kill" }, percent(kill[whole]));
    const most = largest[whole].toFixed(largest[whole] < 10 ? 1 : 0);
    const rest = element("span", {}, `Largest w: ${most}.`);
    const end = element("span", { class: "hash" }, `Weights at the end: ${weights.slice(0, 8)}`);
    const name = `${percent(kill[whole])} of the samples in the kill set after epoch ${whole}`;
    if (tally.dataset.arm !== "klip") {
      byId(`replay-${tally.dataset.arm}`).setAttribute("aria-label", name);
    }
    tally.replaceChildren(share, " in the kill set. ", rest, end);
  }
  arms.forEach(drawDots);
}

/** Move the samples to an epoch. */
function moveTo(epoch, milliseconds, onEnd = () => {}) {
  cancelAnimationFrame(animation);
  const from = shownEpoch;
  const start = performance.now();
  const step = (now) => {
    const done = Math.min(1, Math.max(0, (now - start) / milliseconds));
    showEpoch(done < 1 ? from + (epoch - from) * done : epoch); // the sum may round below it
    if (done < 1) {
      animation = requestAnimationFrame(step);
    } else {
      onEnd();
    }
  };
  animation = requestAnimationFrame(step);
}

function isPlaying() {
  return byId("play").getAttribute("aria-label") === "Pause";
}

function labelPlay(name, sign) {
  byId("play").setAttribute("aria-label", name);
  byId("play").textContent = sign;
}

function stopPlaying() {
  if (isPlaying()) {
    cancelAnimationFrame(animation);
    labelPlay("Play", "▶");
  }
}

function togglePlay() {
  if (prefersStillness()) {
    return;
  }
  if (isPlaying()) {
    stopPlaying();
    choose({ epoch: Math.round(shownEpoch) });
    return;
  }
  const from = shownEpoch >= lastEpoch ? 0 : shownEpoch;
  showEpoch(from);
  labelPlay("Pause", "❚❚");
  moveTo(lastEpoch, 900 * (lastEpoch - from), () => {
    labelPlay("Play", "▶");
    choose({ epoch: lastEpoch });
  });
}

function drawReplay() {
  drawChosen();
  const at = samplePlaces();
  const set = setOf(at);
  const where = `w = ${written(data.ratios[at.w])}, A = ${written(data.advantages[at.A])}:`;
  const name = element("b", { class: setNames[set] }, setNames[set]);
  byId("hero-sum").replaceChildren(`${where} `, withIndex(sumInWords("klip", at)), " ", name);
  const { klip } = record.arms;
  const frozen =
    `Killed is not frozen: ${percent(klip.further)} of the killed samples moved further out by the next epoch.`;
  byId("replay-note").replaceChildren(
    element("b", {}, frozen),
    element("span", {}, " All samples share one network. The panels show " +
      `${advantagesDrawn.length} of the ${record.samples} samples of one rollout: ${record.envId}, seed 1, ` +
      `iteration ${record.iteration}. All start from the same weights. One rollout is an illustration, not evidence.`),
  );
  const wanted = Number(state.epoch);
  if (isPlaying()) {
    return;
  }
  byId("epoch").value = wanted; // at once, or a second key would count from the old place
  if (wanted === shownEpoch || prefersStillness()) {
    cancelAnimationFrame(animation);
    showEpoch(wanted);
  } else {
    moveTo(wanted, 400);
  }
}
