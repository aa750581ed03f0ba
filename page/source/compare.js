// Part 7: two scripts side by side. They share all lines but those of marked regions.

/** The lines of a script in groups: equal ones, those of the policy loss and, if asked for, those
 * of a region that only the scalar script has. */
function groupsOf(form, withScalar) {
  const groups = [];
  const add = (kind, line) => {
    const last = groups.at(-1);
    if (last && last.kind === kind) {
      last.lines.push(line);
    } else {
      groups.push({ kind, lines: [line] });
    }
  };
  for (const line of all("#listing .line")) {
    const block = line.closest(".block");
    if (line.closest("#aligned") || (block && block.dataset.name !== form)) {
      continue;
    }
    if (block) {
      add("loss", line);
    } else if (line.classList.contains("only-scalar")) {
      if (withScalar) {
        add("scalar", line);
      }
    } else {
      add("equal", line);
    }
  }
  return groups;
}

/** Tokens, blanks between them included. */
function tokensOf(text) {
  return text.match(/\w+|\s+|[^\w\s]/g) || [];
}

/** The pieces of text that a line consists of, in order. */
function textNodes(line) {
  const walker = document.createTreeWalker(line, NodeFilter.SHOW_TEXT);
  const nodes = [];
  while (walker.nextNode()) {
    nodes.push(walker.currentNode);
  }
  return nodes;
}

/** How much a token counts: words tell more than signs and blanks. */
function weight(token) {
  return /\w/.test(token) ? 3 : 1;
}

/** For every token of a: does it belong to the weightiest sequence that a and b share? */
function sharedTokens(a, b) {
  const weights = a.concat("").map(() => new Array(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      const skip = Math.max(weights[i + 1][j], weights[i][j + 1]);
      const take = a[i] === b[j] ? weights[i + 1][j + 1] + weight(a[i]) : 0;
      weights[i][j] = Math.max(skip, take);
    }
  }
  const shared = new Array(a.length).fill(false);
  let i = 0;
  let j = 0;
  while (i < a.length && j < b.length) {
    if (a[i] === b[j] && weights[i][j] === weights[i + 1][j + 1] + weight(a[i])) {
      shared[i] = true;
      i += 1;
      j += 1;
    } else if (weights[i + 1][j] >= weights[i][j + 1]) {
      i += 1;
    } else {
      j += 1;
    }
  }
  return shared;
}

/** A copy of a line for the comparison, without its number in part 1. */
function copyOf(line) {
  const copy = line.cloneNode(true);
  copy.hidden = false;
  copy.removeAttribute("data-number");
  return copy;
}

/** An equal line, left and right; a narrow screen shows it once. */
function copiesOf(line) {
  const right = copyOf(line);
  right.classList.add("twin");
  return [copyOf(line), right];
}

/** A copy of a line in which the tokens that its partner lacks are marked. */
function markedCopy(line, partner) {
  if (!line) {
    return element("div", { class: "line missing differs" });
  }
  const copy = copyOf(line);
  if (partner && partner.textContent === line.textContent) {
    return copy;
  }
  copy.classList.add("differs");
  if (!partner || isComment(line)) {
    return copy;
  }
  const shared = sharedTokens(tokensOf(line.textContent), tokensOf(partner.textContent));
  for (const node of textNodes(copy)) {
    const parts = tokensOf(node.data).map((token) => {
      return shared.shift() || !token.trim() ? token : element("mark", {}, token);
    });
    node.replaceWith(...parts);
  }
  return copy;
}

/** Is a line nothing but a comment? */
function isComment(line) {
  return line.textContent.trim().startsWith("#");
}

/** Rows of two blocks: comments first, the last lines, which set the objective, together. */
function pairLines(left, right) {
  const comments = [left.filter(isComment), right.filter(isComment)];
  const isCode = (line) => !isComment(line);
  const code = [left.filter(isCode), right.filter(isCode)];
  const pairs = [];
  const longestComment = Math.max(comments[0].length, comments[1].length);
  for (let i = 0; i < longestComment; i++) {
    pairs.push([comments[0][i], comments[1][i]]);
  }
  const longest = Math.max(code[0].length, code[1].length);
  for (let i = longest; i > 0; i--) {
    pairs.push([code[0].at(-i), code[1].at(-i)]);
  }
  return pairs;
}

function appendDifference(box, left, right, kind) {
  const inOrder = (left.length ? left : right).map((_, i) => [left[i], right[i]]);
  const pairs = kind === "loss" ? pairLines(left, right) : inOrder;
  pairs.forEach(([a, b], i) => {
    const row = [markedCopy(a, b), markedCopy(b, a)];
    const isRemark = i > 0 && isComment(a || b);
    for (const line of row) {
      line.classList.add(kind);
      line.classList.toggle("remark", isRemark);
    }
    box.append(...row);
  });
}

/** Equal lines: two at either end, the others behind a button. */
function appendEqual(box, lines, isFirst, isLast) {
  const near = 2;
  const start = isFirst ? 0 : near;
  const end = isLast ? lines.length : lines.length - near;
  const show = (line) => box.append(...copiesOf(line));
  lines.slice(0, start).forEach(show);
  const hidden = lines.slice(start, end);
  const button = element("button", { type: "button", class: "equal" });
  button.textContent = `⋯ ${hidden.length} equal lines`;
  button.addEventListener("click", () => {
    const lines = hidden.flatMap(copiesOf);
    button.replaceWith(...lines);
    lines[0].tabIndex = -1; // or a keyboard would have to start again from the top of the page
    lines[0].focus({ preventScroll: true });
  });
  box.append(button);
  lines.slice(end).forEach(show);
}

function startCompare() {
  for (const side of ["left", "right"]) {
    byId(side).addEventListener("change", (event) => choose({ [side]: event.target.value }));
  }
  byId("swap").addEventListener("click", () => choose({ left: state.right, right: state.left }));
  drawers.push(drawCompare);
}

/** The lines of a group that the script `form` has. */
function linesFor(group, form) {
  if (group.kind === "scalar" && form !== "kl_scalar") {
    return [];
  }
  return group.lines;
}

function drawCompare() {
  const box = byId("diff");
  byId("left").value = state.left;
  byId("right").value = state.right;
  const pair = `${state.left} ${state.right}`;
  if (box.dataset.pair === pair) {
    return;
  }
  box.dataset.pair = pair;
  box.replaceChildren();
  byId("same").textContent = state.left === state.right ? "One script twice: no line differs." : "";
  const withScalar = pair.includes("kl_scalar");
  const left = groupsOf(state.left, withScalar);
  const right = groupsOf(state.right, withScalar);
  left.forEach((group, i) => {
    if (group.kind === "equal") {
      appendEqual(box, group.lines, i === 0, i === left.length - 1);
    } else {
      appendDifference(box, linesFor(group, state.left), linesFor(right[i], state.right), group.kind);
    }
  });
}
