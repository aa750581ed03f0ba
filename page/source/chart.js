// Small charts in SVG: a frame with axes, and what is drawn into it.

const setNames = { i: "in", k: "kill", p: "pass" };

function svgElement(tag, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    made.setAttribute(name, value);
  }
  made.textContent = text;
  return made;
}

/** What maps numbers in the ranges x and y to places in a box, and back. */
function chartOf(svg, box, x, y) {
  return {
    svg,
    box,
    toX: (value) => box.left + ((box.right - box.left) * (value - x[0])) / (x[1] - x[0]),
    toY: (value) => box.bottom - ((box.bottom - box.top) * (value - y[0])) / (y[1] - y[0]),
    fromX: (place) => x[0] + ((x[1] - x[0]) * (place - box.left)) / (box.right - box.left),
    fromY: (place) => y[0] + ((y[1] - y[0]) * (box.bottom - place)) / (box.bottom - box.top),
  };
}

/** An empty chart in an <svg>: x and y are its ranges, ticks the numbers written at the axes. */
function startChart(svg, { x, y, xTicks, yTicks, xName, yName, bottom = 316 }) {
  const box = { left: 52, right: 390, top: 40, bottom };
  svg.setAttribute("viewBox", `0 0 400 ${bottom + 66}`);
  const chart = chartOf(svg, box, x, y);
  svg.replaceChildren();
  const clip = svgElement("clipPath", { id: `${svg.id}-frame` });
  clip.append(
    svgElement("rect", {
      x: box.left,
      y: box.top,
      width: box.right - box.left,
      height: box.bottom - box.top,
    }),
  );
  svg.append(clip);
  for (const tick of xTicks) {
    const attributes = { x: chart.toX(tick), y: box.bottom + 28, "text-anchor": "middle" };
    svg.append(svgElement("text", attributes, String(tick).replace("-", "−")));
  }
  for (const tick of yTicks) {
    const attributes = { x: box.left - 8, y: chart.toY(tick) + 6, "text-anchor": "end" };
    svg.append(svgElement("text", attributes, String(tick).replace("-", "−")));
  }
  const middle = (box.left + box.right) / 2;
  svg.append(svgElement("text", { x: middle, y: box.bottom + 56, "text-anchor": "middle" }, xName));
  svg.append(svgElement("text", { x: box.left - 44, y: 26 }, yName));
  return chart;
}

/** Lines through 0 and, on the left, the frame. */
function drawAxes(chart) {
  const { left, right, top, bottom } = chart.box;
  const zero = chart.toY(0);
  const vertical = chart.toX(0);
  const path = `M${left} ${zero}H${right}M${vertical} ${top}V${bottom}`;
  chart.svg.append(svgElement("path", { d: path, class: "axis" }));
}

/** A tinted rectangle for a set. */
function drawRegion(chart, letter, xRange, yRange) {
  const left = chart.toX(xRange[0]);
  const top = chart.toY(yRange[1]);
  chart.svg.append(
    svgElement("rect", {
      class: `region ${setNames[letter]}`,
      x: left,
      y: top,
      width: chart.toX(xRange[1]) - left,
      height: chart.toY(yRange[0]) - top,
    }),
  );
}

function drawSetName(chart, letter, x, y) {
  const attributes = { x, y, class: `set-name ${setNames[letter]}`, "text-anchor": "middle" };
  chart.svg.append(svgElement("text", attributes, setNames[letter]));
}

/** Is the step from i - 1 to i a jump? It is if it dwarfs both its neighbours. */
function isJump(values, i) {
  const step = (k) => Math.abs(values[k] - values[k - 1]);
  if (i < 2 || i > values.length - 2) {
    return false;
  }
  return step(i) > 0.05 + 4 * Math.max(step(i - 1), step(i + 1));
}

/** A curve, interrupted where it jumps. */
function drawCurve(chart, xs, ys, className) {
  let path = "";
  for (let i = 0; i < xs.length; i++) {
    const command = i === 0 || isJump(ys, i) ? "M" : "L";
    path += `${command}${chart.toX(xs[i]).toFixed(1)} ${chart.toY(ys[i]).toFixed(1)}`;
  }
  const attributes = { d: path, class: `curve ${className}` };
  attributes["clip-path"] = `url(#${chart.svg.id}-frame)`;
  chart.svg.append(svgElement("path", attributes));
}

/** A sample: a disc if it is in, a cross if it is killed, a triangle if it passes. */
function drawMark(chart, letter, x, y, size, className = "") {
  const shapes = {
    i: "M-6 0A6 6 0 1 0 6 0A6 6 0 1 0-6 0Z",
    k: "M-7-4L-4-7L0-3L4-7L7-4L3 0L7 4L4 7L0 3L-4 7L-7 4L-3 0Z",
    p: "M0-7L7 6H-7Z",
  };
  const place = `translate(${chart.toX(x).toFixed(1)} ${chart.toY(y).toFixed(1)}) scale(${size})`;
  const attributes = { d: shapes[letter], transform: place };
  attributes.class = `mark ${setNames[letter]} ${className}`;
  const { left, right, top, bottom } = chart.box;
  const isInside = x >= chart.fromX(left) && x <= chart.fromX(right);
  if (isInside && y <= chart.fromY(top) && y >= chart.fromY(bottom)) {
    chart.svg.append(svgElement("path", attributes));
  }
}
