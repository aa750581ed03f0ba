// Part 5: the pushes of many samples under no penalty, one per sample, and one for all.

function startScalar() {
  const slider = byId("beta");
  slider.min = 0;
  slider.max = data.cloud.betas.length - 1;
  slider.addEventListener("input", () => choose({ beta: data.cloud.betas[slider.value] }));
  drawers.push(drawScalar);
}

/** How many samples of a set push with nothing. */
function countAtZero(pushes, letter) {
  return pushes.filter(([right, up], i) => {
    return data.cloud.sets[i] === letter && right === 0 && up === 0;
  }).length;
}

function meanPush(pushes) {
  const sum = pushes.reduce((total, push) => [total[0] + push[0], total[1] + push[1]], [0, 0]);
  return [sum[0] / pushes.length, sum[1] / pushes.length];
}

/** From no push to this one; a dot if it is none. */
function drawArrow(chart, right, up) {
  const [fromX, fromY] = [chart.toX(0), chart.toY(0)];
  const [x, y] = [chart.toX(right), chart.toY(up)];
  const length = Math.hypot(x - fromX, y - fromY);
  if (length < 2) {
    chart.svg.append(svgElement("circle", { cx: fromX, cy: fromY, r: 7, class: "mean dot" }));
    return;
  }
  const [dx, dy] = [(12 * (x - fromX)) / length, (12 * (y - fromY)) / length];
  const head = `M${x - dx - dy * 0.7} ${y - dy + dx * 0.7}L${x} ${y}L${x - dx + dy * 0.7} ${y - dy - dx * 0.7}`;
  chart.svg.append(svgElement("path", { d: `M${fromX} ${fromY}L${x} ${y}${head}`, class: "mean" }));
}

function drawCloud(svg, pushes) {
  const chart = startChart(svg, {
    x: [-2.5, 4.5],
    y: [-4, 6.5],
    xTicks: [-2, 0, 2, 4],
    yTicks: [-3, 0, 3],
    xName: "push on the mean",
    yName: "push on the spread",
    bottom: state.projector ? 262 : 270,
  });
  drawAxes(chart);
  for (const letter of "ipk") {
    pushes.forEach(([right, up], i) => {
      if (data.cloud.sets[i] === letter) {
        drawMark(chart, letter, right, up, 1.2, "small");
      }
    });
  }
  const [right, up] = meanPush(pushes.filter((_, i) => data.cloud.sets[i] === "k"));
  drawArrow(chart, right, up);
  const killed = [...data.cloud.sets].filter((letter) => letter === "k").length;
  const count = countAtZero(pushes, "k");
  svg.setAttribute("aria-label", `${count} of ${killed} killed samples push with nothing`);
}

function drawScalar() {
  const place = nearest(data.cloud.betas, Number(state.beta));
  const scalar = data.cloud.scalar[place];
  const killed = [...data.cloud.sets].filter((letter) => letter === "k").length;
  const text = written(data.cloud.betas[place]);
  byId("beta").value = place;
  byId("beta").setAttribute("aria-valuetext", text);
  byId("beta").nextElementSibling.textContent = text;
  drawCloud(byId("cloud-plain"), data.cloud.scalar[0]);
  drawCloud(byId("cloud-beta-t"), data.cloud.betaT);
  drawCloud(byId("cloud-scalar"), scalar);
  const byBetaT = `${countAtZero(data.cloud.betaT, "k")} of ${killed} by β_t`;
  const byScalar = `${countAtZero(scalar, "k")} of ${killed} by the scalar β = ${text}`;
  byId("count").replaceChildren(withIndex(`Killed samples brought to 0: ${byBetaT}, ${byScalar}.`));
}
