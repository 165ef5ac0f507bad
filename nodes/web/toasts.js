// Toasts: that an image was held back and why, and that the pack cannot work.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { say } from "./words.js";

const LINES = 4;
const LIFE = { held: 15000, changed: 8000 }; // milliseconds

function toast(severity, summary, detail, life) {
  const message = { severity, summary, detail, life };
  if (app.extensionManager?.toast?.add) app.extensionManager.toast.add(message);
  else console.warn(`ConceptGuard: ${summary}: ${detail}`);
}

function because(report) {
  const flagged = report.verdicts.filter((verdict) => verdict.flagged);
  const lines = flagged.map((verdict) =>
    say("toast.because", { ...verdict, n: verdict.image + 1, score: verdict.score.toFixed(2) }),
  );
  const more = lines.length - LINES;
  return [...lines.slice(0, LINES), ...(more > 0 ? [say("receipt.more", { n: more })] : [])].join("\n");
}

export function watchImages() {
  api.addEventListener("conceptguard.report", ({ detail }) => {
    if (!detail.flagged.length) return;
    const values = { what: [...new Set(detail.verdicts.filter((v) => v.flagged).map((v) => v.label))].join(", ") };
    if (detail.held) toast("warn", say("toast.held", values), because(detail), LIFE.held);
    else if (["blur", "black"].includes(detail.action))
      toast("info", say(`toast.${detail.action}`, values), because(detail), LIFE.changed);
  });
}

// { error, enforced } of the server; null where it does not say.
export async function status() {
  const answer = await api.fetchApi("/conceptguard/status");
  return answer.ok ? await answer.json() : null;
}

export async function tellStatus() {
  const found = await status();
  if (found?.error) toast("error", say("toast.missing"), found.error);
}
