// An artifact's example sheet, or the page of what was found, large.
import { make } from "./dom.js";
import { say } from "./words.js";

export function showSheet(ref, source) {
  const text = say("sidebar.sheetOf", { ref });
  const dialog = show("cg-sheet", text, make("img", { src: source, alt: text }));
  dialog.addEventListener("click", () => dialog.close());
}

// Keys that are pressed in the page are the page's: it has a button to close it.
export function showPage(name, source) {
  const text = say("sidebar.foundOf", { name });
  const close = make("button", { className: "cg-close", textContent: "×", title: say("sidebar.close"), ariaLabel: say("sidebar.close") });
  const dialog = show("cg-sheet cg-page", text, make("iframe", { src: source, title: text }), close);
  close.addEventListener("click", () => dialog.close());
}

function show(className, ariaLabel, ...inside) {
  const dialog = make("dialog", { className, ariaLabel }, ...inside);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
