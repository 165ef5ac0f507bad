// What nodes of the pack show of themselves, in a DOM widget: bars while something is sampled, the report afterwards.
import { api } from "../../scripts/api.js";
import { bars } from "./bars.js";
import { make } from "./dom.js";
import { nodeOf } from "./graph.js";
import { POLICY } from "./policy.js";
import { say } from "./words.js";

const WIDGET = "conceptguard_view";
// In pixels, what is kept free in a node; a longer view scrolls.
const WIDTH = 280;
const VIEWS = {
  ConceptGuardModel: { hint: "receipt.waiting", height: 96 },
  ConceptGuardReceipt: { hint: "receipt.waiting", height: 120, report: true },
  ConceptGuardCheckImage: { hint: "report.waiting", height: 64, report: true },
  ConceptGuardExplain: { hint: "report.waiting", height: 96, report: true },
};

export function addView(node) {
  const view = VIEWS[node.comfyClass];
  if (node.comfyClass === POLICY) atLeast(node, WIDTH); // for references, which are long
  if (!view || !node.addDOMWidget) return;
  const live = make("div", { className: "cg-live" }, make("p", { className: "cg-hint" }, say(view.hint)));
  const report = make("pre", { className: "cg-report", hidden: true });
  const box = make("div", { className: "cg-view" }, live, report);
  // A wheel scrolls a long view; elsewhere the canvas has it, to zoom.
  box.addEventListener("wheel", (event) => box.scrollHeight > box.clientHeight && event.stopPropagation());
  const widget = node.addDOMWidget(WIDGET, "conceptguard", box, {
    serialize: false,
    hideOnZoom: false,
  });
  widget.serialize = false; // not in workflows either: what was drawn once is no setting
  widget.computeLayoutSize = () => ({ minHeight: view.height, minWidth: WIDTH });
  atLeast(node, ...node.computeSize());
  node.conceptguard = { live, report };
  if (view.report) {
    const before = node.onExecuted;
    node.onExecuted = function (output, ...rest) {
      before?.call(this, output, ...rest);
      showReport(node, output?.text);
      for (const receipt of output?.conceptguard_receipt ?? []) showReceipt(node, receipt, "done");
    };
  }
}

function atLeast(node, width, height = 0) {
  node.setSize([Math.max(width, node.size[0]), Math.max(height, node.size[1])]);
}

function showReport(node, text) {
  if (!text?.length) return;
  const { live, report } = node.conceptguard;
  live.querySelector(".cg-hint")?.remove();
  report.textContent = [text].flat().join("\n");
  report.hidden = false;
}

function showReceipt(node, receipt, state) {
  node.conceptguard?.live.replaceChildren(bars(receipt, state));
}

export function watchSampling() {
  api.addEventListener("conceptguard.receipt", ({ detail }) => {
    const state = detail.stopped ? "stopped" : detail.done ? "done" : "running";
    for (const id of [detail.node, ...detail.receipts]) {
      const node = nodeOf(id);
      if (node) showReceipt(node, detail, state);
    }
  });
}
