"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("has-js");
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const rows = all(".row");
  const words = new Map(rows.map((row) => [row.id, row.querySelector("summary").textContent.toLowerCase()]));
  const find = document.getElementById("find");
  const found = document.getElementById("found");

  let showHits = () => {};
  let showWhole = () => {};

  // Search, and the choice of how targets ended

  let end = "";
  const search = () => {
    const wanted = find.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const hits = new Set(rows.filter((row) => wanted.every((word) => words.get(row.id).includes(word))).map((row) => row.id));
    root.classList.toggle("searching", wanted.length > 0);
    for (const row of rows) row.hidden = !hits.has(row.id) || (end !== "" && row.dataset.end !== end);
    for (const each of all("[data-of]")) each.classList.toggle("hit", wanted.length > 0 && hits.has(each.dataset.of));
    found.textContent = wanted.length ? `${hits.size} of ${rows.length}` : "";
    document.getElementById("none").hidden = rows.some((row) => !row.hidden);
  };
  find.addEventListener("input", search);
  find.addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      showHits();
      event.preventDefault();
    }
    if (event.key === "Escape") { find.value = ""; search(); find.blur(); }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.altKey && document.activeElement !== find) {
      find.focus();
      event.preventDefault();
    }
  });
  for (const chip of all(".chips button")) {
    chip.addEventListener("click", () => {
      end = chip.dataset.end;
      for (const each of all(".chips button")) each.setAttribute("aria-pressed", String(each === chip));
      search();
    });
  }

  // A link to a target opens it

  const open = () => {
    const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (row && row.classList.contains("row")) {
      row.open = true;
      row.hidden = false;
      row.scrollIntoView({ block: "center" });
    }
  };
  addEventListener("hashchange", open);
  open();

  // On paper, every target is open, and the graph is whole

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    for (const each of closed) each.open = true;
    showWhole();
  });
  addEventListener("afterprint", () => {
    for (const each of closed) each.open = false;
  });

  // The graph: moved and zoomed by its viewBox

  const board = document.getElementById("board");
  if (board === null) return;
  const [left, top, width, height] = board.getAttribute("viewBox").split(" ").map(Number);
  board.style.aspectRatio = `${width} / ${height}`; // also when another part is seen
  let view = { x: left, y: top, w: width, h: height };
  const pixels = () => board.getBoundingClientRect();
  const scale = () => Math.min(pixels().width / view.w, pixels().height / view.h);
  const show = () => {
    board.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);
    board.classList.toggle("near", view.w < width * 0.98);
  };
  const zoom = (factor, at) => {
    const w = Math.min(Math.max(view.w * factor, 160), width * 2);
    const real = w / view.w;
    const point = at || { x: view.x + view.w / 2, y: view.y + view.h / 2 };
    view = { x: point.x - (point.x - view.x) * real, y: point.y - (point.y - view.y) * real, w, h: view.h * real };
    show();
  };
  const fit = (box) => {
    const margin = 24;
    const w = Math.max(box.w + 2 * margin, 420);
    const h = Math.max(box.h + 2 * margin, 160);
    view = { x: box.x + box.w / 2 - w / 2, y: box.y + box.h / 2 - h / 2, w, h };
    show();
  };
  showWhole = () => {
    view = { x: left, y: top, w: width, h: height };
    show();
  };
  const place = (node) => {
    const { e, f } = node.transform.baseVal.consolidate().matrix;
    const size = node.querySelector("rect");
    return { x: e, y: f, w: size.width.baseVal.value, h: size.height.baseVal.value };
  };
  const around = (nodes) => {
    const places = nodes.map(place);
    const x = Math.min(...places.map((each) => each.x));
    const y = Math.min(...places.map((each) => each.y));
    const w = Math.max(...places.map((each) => each.x + each.w)) - x;
    const h = Math.max(...places.map((each) => each.y + each.h)) - y;
    fit({ x, y, w, h });
  };
  showHits = () => {
    const nodes = all(".node.hit", board);
    if (nodes.length) {
      around(nodes);
      board.scrollIntoView({ block: "center" });
    }
  };
  const pointAt = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(board.getScreenCTM().inverse());
  board.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoom(Math.exp(event.deltaY * 0.002), pointAt(event));
  }, { passive: false });
  const fingers = new Map();
  let moved = 0;
  let apart = 0;
  board.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    fingers.set(event.pointerId, event);
    moved = 0;
    apart = 0;
  });
  board.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    fingers.set(event.pointerId, event);
    if (fingers.size === 2) {
      const [one, other] = [...fingers.values()];
      const now = Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      const middle = { clientX: (one.clientX + other.clientX) / 2, clientY: (one.clientY + other.clientY) / 2 };
      if (apart) zoom(apart / now, pointAt(middle));
      apart = now;
      moved = 99;
      return;
    }
    const dx = event.clientX - before.clientX;
    const dy = event.clientY - before.clientY;
    moved += Math.abs(dx) + Math.abs(dy);
    if (moved < 4) return;
    board.classList.add("moves");
    board.setPointerCapture(event.pointerId);
    view.x -= dx / scale();
    view.y -= dy / scale();
    show();
  });
  const lift = (event) => {
    fingers.delete(event.pointerId);
    apart = 0;
    board.classList.remove("moves");
  };
  for (const name of ["pointerup", "pointercancel", "pointerleave"]) board.addEventListener(name, lift);
  board.addEventListener("dragstart", (event) => event.preventDefault());
  board.addEventListener("click", (event) => { if (moved >= 4) { event.preventDefault(); moved = 0; } }, true);
  board.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "+" || event.key === "=") zoom(0.8);
    else if (event.key === "-") zoom(1.25);
    else if (event.key === "0") showWhole();
    else if (steps[event.key]) {
      view.x += steps[event.key][0] * view.w * 0.1;
      view.y += steps[event.key][1] * view.h * 0.1;
      show();
    } else return;
    event.preventDefault();
  });
  for (const button of all("[data-zoom]")) {
    button.addEventListener("click", () => ({ in: () => zoom(0.7), out: () => zoom(1 / 0.7), fit: showWhole })[button.dataset.zoom]());
  }
  const light = (id) => {
    for (const edge of all(".edges path", board)) edge.classList.toggle("lit", id !== null && (edge.dataset.from === id || edge.dataset.to === id));
  };
  for (const node of all(".node", board)) {
    for (const name of ["pointerenter", "focus"]) node.addEventListener(name, () => light(node.dataset.of));
    for (const name of ["pointerleave", "blur"]) node.addEventListener(name, () => light(null));
  }
  if (scale() < 0.55) { // too small to be read: begin with what matters
    const first = all(".node.failed", board).concat(all(".node.critical", board).reverse(), all(".node", board).reverse())[0];
    const { width: wide, height: high } = pixels();
    if (first && wide) {
      const at = place(first);
      const [w, h] = [wide / 0.7, high / 0.7];
      view = { x: at.x + at.w + 24 - w, y: at.y + at.h / 2 - h / 2, w, h };
      show();
    }
  }
})();
