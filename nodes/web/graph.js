// The graph that is open, through the few calls of it that both generations of frontends have.
import { app } from "../../scripts/app.js";

// The graph on the screen: a subgraph, when one is entered.
export function currentGraph() {
  return app.canvas.graph ?? app.graph;
}

export function nodes(kind) {
  return currentGraph().nodes.filter((node) => !kind || node.comfyClass === kind);
}

// The node of an id as the server says it: "5", or "7:5" for node 5 in the subgraph that node 7 is.
export function nodeOf(id) {
  const path = String(id).split(":");
  let graph = app.rootGraph ?? app.graph;
  let node = null;
  for (const part of path) {
    node = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part)) ?? null;
    graph = node?.subgraph;
  }
  return node;
}

export function inputSlot(node, name) {
  return (node.inputs ?? []).findIndex((input) => input.name === name);
}

// Where an output goes: [{ node, slot }].
export function consumers(node, slot = 0) {
  const found = new Set(node.getOutputNodes(slot) ?? []);
  return [...found].flatMap((other) =>
    other.inputs
      .map((_, n) => ({ node: other, slot: n, link: other.getInputLink(n) }))
      .filter(({ link }) => link?.origin_id == node.id && link.origin_slot === slot),
  );
}

export function widget(node, name) {
  return (node.widgets ?? []).find((each) => each.name === name);
}

export function setWidget(node, name, value) {
  const found = widget(node, name);
  found.value = value;
  found.callback?.(value, app.canvas, node);
}

// Several changes as one step of undo.
export function changing(change) {
  app.canvas.emitBeforeChange();
  try {
    return change();
  } finally {
    app.canvas.emitAfterChange();
    currentGraph().setDirtyCanvas(true, true);
  }
}

export function middleOfView() {
  const [x, y, width, height] = app.canvas.visible_area;
  return [x + width / 3, y + height / 3];
}

// The nearest place below a position where a node of this size covers no other.
export function placeFor(size, [x, y], gap = 50) {
  const covers = (node) =>
    x < node.pos[0] + node.size[0] && node.pos[0] < x + size[0] && y < node.pos[1] + node.size[1] + gap && node.pos[1] < y + size[1] + gap;
  for (let other; (other = currentGraph().nodes.find(covers)); ) y = other.pos[1] + other.size[1] + gap;
  return [x, y];
}
