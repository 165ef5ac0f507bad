// The pack's part of the page: bars in nodes, toasts, and a sidebar tab. Everything is drawn as DOM, nothing on the
// canvas, and what a frontend may lack is asked for before it is used.
import { app } from "../../scripts/app.js";
import { watchDrops } from "./drop.js";
import { learnPolicyNode } from "./policy.js";
import { addView, watchSampling } from "./views.js";
import { addSidebar } from "./sidebar.js";
import { watchImages, tellStatus } from "./toasts.js";
import { loadWords } from "./words.js";

function addStyle() {
  const href = new URL("./conceptguard.css", import.meta.url).href;
  document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href }));
}

app.registerExtension({
  name: "ConceptGuard",
  async init() {
    addStyle();
    await loadWords();
  },
  beforeRegisterNodeDef(nodeType, nodeData) {
    learnPolicyNode(nodeData);
  },
  nodeCreated: addView,
  async setup() {
    watchSampling();
    watchImages();
    watchDrops();
    addSidebar();
    await tellStatus();
  },
});
