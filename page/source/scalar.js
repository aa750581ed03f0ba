// Part 4: the pushes of many samples under no penalty, one per sample, and one for all.

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

function drawCloud(svg, pushes) {
  const chart = startChart(svg, {
    x: [-2.5, 4.5],
    y: [-4, 6.5],
    xTicks: [-2, 0, 2, 4],
    yTicks: [-3, 0, 3],
    xName: "push on the mean",
    yName: "push on the spread",
  });
  drawAxes(chart);
  for (const letter of "ipk") {
    pushes.forEach(([right, up], i) => {
      if (data.cloud.sets[i] === letter) {
        drawMark(chart, letter, right, up, 0.8, "small");
      }
    });
  }
  const [right, up] = meanPush(pushes);
  const diamond = `translate(${chart.toX(right)} ${chart.toY(up)})`;
  svg.append(svgElement("path", { d: "M0-9L7 0L0 9L-7 0Z", class: "mean", transform: diamond }));
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
