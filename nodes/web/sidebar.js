// The sidebar tab: what the registry has, to look at, to search, and to add to the graph.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { artifactCard, foundCard, methodCard, policyCard } from "./cards.js";
import { make } from "./dom.js";
import { status } from "./toasts.js";
import { say } from "./words.js";

const ID = "conceptguard";
let panel = null;

export function addSidebar() {
  const manager = app.extensionManager;
  const register = manager?.sidebarTab?.registerSidebarTab ?? manager?.registerSidebarTab;
  register?.({
    id: ID,
    icon: "cg-icon",
    title: say("sidebar.title"),
    tooltip: say("sidebar.tooltip"),
    type: "custom",
    // Frontends render a tab anew whenever it is opened, and some more often: the same panel keeps its search.
    render: (place) => {
      panel ??= createPanel();
      if (panel.parentElement !== place) place.replaceChildren(panel);
    },
  });
}

function createPanel() {
  const search = make("input", { type: "search", placeholder: say("sidebar.search"), className: "cg-search" });
  const base = make("select", { className: "cg-base", title: say("sidebar.base"), hidden: true });
  const reload = make("button", { textContent: "⟳", title: say("sidebar.reload"), ariaLabel: say("sidebar.reload") });
  const told = make("p", { className: "cg-told", role: "status" });
  const list = make("div", { className: "cg-list" });
  const filter = () => filterCards(list, search.value, base.value);
  search.addEventListener("input", filter);
  base.addEventListener("change", filter);
  reload.addEventListener("click", () => fill(list, base, told).then(filter));
  api.addEventListener("conceptguard.found", () => reload.click());
  // Keys typed here are no shortcuts of the graph.
  search.addEventListener("keydown", (event) => event.stopPropagation());
  reload.click();
  return make("div", { className: "cg-panel" }, make("div", { className: "cg-tools" }, search, base, reload), told, list);
}

async function fill(list, base, told) {
  told.textContent = say("sidebar.loading");
  const state = await status();
  const asked = state?.error ? [] : ["registry", "found"].map((name) => api.fetchApi(`/conceptguard/${name}`));
  const [found, looked] = await Promise.all([0, 1].map(async (i) => (await (await asked[i])?.json().catch(() => null)) ?? {}));
  if (!found.artifacts) {
    told.textContent = state?.error ?? found.error ?? say("sidebar.unreachable");
    list.replaceChildren();
    return;
  }
  told.textContent = state.enforced ? say("sidebar.enforced", { policy: state.enforced }) : "";
  const chosen = base.value;
  const bases = [...new Set(found.artifacts.map((artifact) => artifact.base))].sort();
  base.replaceChildren(...["", ...bases].map((value) => new Option(value || say("sidebar.allBases"), value)));
  base.value = bases.includes(chosen) ? chosen : "";
  base.hidden = bases.length < 2;
  const artifacts = found.artifacts.sort((a, b) => a.concept.localeCompare(b.concept) || b.picture - a.picture);
  const tell = (text) => (told.textContent = text);
  list.replaceChildren(
    group("found", looked.map((one) => foundCard(one))),
    group("policies", found.policies.map((file) => policyCard(file, tell))),
    group("artifacts", artifacts.map((artifact) => artifactCard(artifact, tell))),
    group("methods", found.methods.filter(({ needs }) => needs !== "artifact").map((method) => methodCard(method, tell))),
  );
}

function group(name, cards) {
  const count = make("span", { className: "cg-count" });
  const title = make("summary", { title: say(`sidebar.${name}Tip`) }, say(`sidebar.${name}`), " ", count);
  return make("details", { open: true, className: "cg-group" }, title, make("div", { className: `cg-${name}` }, ...cards));
}

function filterCards(list, text, base) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const part of list.children) {
    const cards = [...part.querySelectorAll(".cg-card")];
    for (const card of cards) {
      const fits = words.every((word) => card.dataset.words.includes(word));
      card.hidden = !fits || (base && card.dataset.base && card.dataset.base !== base);
    }
    const shown = cards.filter((card) => !card.hidden).length;
    part.querySelector(".cg-count").textContent = shown;
    part.hidden = !shown;
  }
}
