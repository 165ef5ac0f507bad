// One card of the sidebar: an artifact with its picture and figures, a policy, a method that takes words, or what was
// found in pictures.
import { api } from "../../scripts/api.js";
import { make } from "./dom.js";
import { draggable } from "./drop.js";
import { add } from "./policy.js";
import { showPage, showSheet } from "./sheet.js";
import { say } from "./words.js";

export function artifactCard(artifact, tell) {
  const { ref, concept, method, base, licence, signed, prompts, card } = artifact;
  const whose = signed === "unsigned" ? say("sidebar.unsigned") : signed; // a name, or why it counts no longer
  const source = api.apiURL(`/conceptguard/card?ref=${encodeURIComponent(ref)}`);
  const picture = artifact.picture
    ? make("button", { className: "cg-thumb", title: say("sidebar.enlarge"), onclick: () => showSheet(ref, source) },
        make("img", { src: source, loading: "lazy", alt: say("sidebar.sheetOf", { ref }), draggable: false,
          onerror: (event) => (event.target.hidden = true) }))
    : null;
  return shell(
    { artifact: ref },
    { title: concept, badge: method, words: [ref, concept, method, base, ...prompts], base, tell, picture },
    make("p", { className: "cg-meta", title: ref }, [base, licence, whose].filter(Boolean).join(" · ")),
    ...figures(card),
    make("p", { className: "cg-prompts", title: prompts.join(", ") }, prompts.join(", ")),
  );
}

export function policyCard(file, tell) {
  return shell({ file }, { title: file.replace(/\.ya?ml$/, ""), words: [file], tell });
}

export function methodCard({ method, needs }, tell) {
  const hint = make("p", { className: "cg-meta" }, say(needs === "concept" ? "sidebar.needsConcept" : "sidebar.needsNothing"));
  return shell({ method }, { title: method, badge: say("sidebar.method"), words: [method], tell }, hint);
}

// What Find Concepts found: a click opens its page, on which a person corrects it.
export function foundCard({ name, finder, concepts }) {
  const source = api.apiURL(`/conceptguard/found/${encodeURIComponent(name)}/`);
  return make(
    "article",
    { className: "cg-card cg-opens", data: { words: [name, finder, ...concepts].join(" ").toLowerCase(), base: "" } },
    make("button", { className: "cg-body cg-look", title: say("sidebar.correct"), onclick: () => showPage(name, source) },
      make("h4", {}, name, " ", make("small", {}, finder)),
      make("p", { className: "cg-prompts" }, concepts.join(", "))),
  );
}

// What was measured: shares of pictures in which the concept, or its neighbours, were recognised.
function figures(card) {
  const percent = (share) => `${Math.round(100 * share)} %`;
  const pairs = [["erased", "erased"], ["neighbours", "neighbours"]].filter(([key]) => `${key}_after` in card);
  return pairs.map(([key, word]) =>
    make("p", { className: "cg-figure" }, say(`sidebar.${word}`), " ",
      make("b", {}, `${percent(card[`${key}_before`])} → ${percent(card[`${key}_after`])}`)));
}

function shell(choice, { title, badge, words, base = "", tell, picture = null }, ...body) {
  const button = make("button", { className: "cg-add", title: say("sidebar.addTip"), ariaLabel: `${say("sidebar.add")}: ${title}` }, "+");
  const element = make(
    "article",
    { className: "cg-card", title: say("sidebar.dragTip"), data: { words: words.join(" ").toLowerCase(), base } },
    picture,
    make("div", { className: "cg-body" }, make("h4", {}, title, " ", badge && make("small", {}, badge)), ...body),
    button,
  );
  button.addEventListener("click", () => {
    const node = add(choice);
    tell(say(choice.method ? "sidebar.addedMethod" : "sidebar.added", { title, node: node.id }));
  });
  draggable(element, choice);
  return element;
}
