// An artifact's example sheet, large.
import { make } from "./dom.js";
import { say } from "./words.js";

export function showSheet(ref, source) {
  const dialog = make(
    "dialog",
    { className: "cg-sheet", ariaLabel: say("sidebar.sheetOf", { ref }) },
    make("img", { src: source, alt: say("sidebar.sheetOf", { ref }) }),
  );
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
