// Dragging a card out of the sidebar onto the graph.
import { currentGraph } from "./graph.js";
import { POLICY, add, choose } from "./policy.js";
import { app } from "../../scripts/app.js";

const TYPE = "application/x-conceptguard";

export function draggable(element, choice) {
  element.draggable = true;
  element.addEventListener("dragstart", (event) => {
    event.dataTransfer.setData(TYPE, JSON.stringify(choice));
    event.dataTransfer.effectAllowed = "copy";
  });
}

function ours(event) {
  return event.dataTransfer?.types.includes(TYPE) && !event.target.closest?.(".cg-panel");
}

// Nodes may be elements above the canvas, and frontends have drop handlers of their own: ours looks first.
export function watchDrops() {
  const listen = (kind, act) =>
    window.addEventListener(
      kind,
      (event) => {
        if (!ours(event)) return;
        event.preventDefault();
        event.stopPropagation();
        act(event);
      },
      { capture: true },
    );
  listen("dragover", (event) => (event.dataTransfer.dropEffect = "copy"));
  listen("drop", (event) => {
    const choice = JSON.parse(event.dataTransfer.getData(TYPE));
    const at = app.clientPosToCanvasPos([event.clientX, event.clientY]);
    const node = currentGraph().getNodeOnPos(...at);
    if (node?.comfyClass === POLICY) choose(node, choice);
    else add(choice, at);
  });
}
