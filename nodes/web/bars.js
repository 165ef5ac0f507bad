// A receipt as bars: how far each guard is open, in the shape of the server's `conceptguard.receipt`.
import { make } from "./dom.js";
import { say } from "./words.js";

const MOST = 12;

// "spm emoji-sd/spm/cigarette" is shown as "cigarette", with its method beside it.
function named(guard) {
  const [method, ...rest] = guard.split(" ");
  return { method, concept: rest.join(" ").split("/").pop() || method };
}

function tip(act, rows) {
  const gates = act.gates.map((gate, n) => {
    const row = rows[n] ?? {};
    return `${gate.toFixed(2)}  ${row.text ? `“${row.text}”` : (row.branch ?? "")}`;
  });
  const terms = say("receipt.tip", { strength: act.strength, steps: act.steps, layers: act.layers });
  return [act.guard, terms, ...gates, ...act.notes].join("\n");
}

function bar(act, full, rows) {
  const { method, concept } = named(act.guard);
  const fill = make("i", { style: { width: `${(100 * act.open) / full}%` } });
  const track = make("span", { className: "cg-track", role: "meter", ariaValueNow: act.open, ariaLabel: act.guard }, fill);
  return make(
    "div",
    { className: "cg-bar", title: tip(act, rows), data: { guard: act.guard, open: act.open } },
    make("span", { className: "cg-name" }, concept, " ", make("small", {}, concept === method ? "" : method)),
    track,
    make("span", { className: "cg-value" }, act.open.toFixed(2)),
  );
}

// state: "running", "done" or "stopped"
export function bars(receipt, state) {
  const shown = receipt.acts.filter((act) => act.open > 0).sort((a, b) => b.open - a.open);
  const full = Math.max(1, ...shown.map((act) => act.open));
  const values = { step: receipt.step, seconds: receipt.seconds.toFixed(1), open: shown.length, all: receipt.guards };
  const notes = receipt.acts.flatMap((act) => act.notes.map((note) => `${named(act.guard).concept}: ${note}`));
  return make(
    "div",
    { className: "cg-bars", data: { state } },
    make(
      "header",
      {},
      make("b", {}, receipt.policy),
      make("span", {}, say(`receipt.${state}`, values)),
      make("span", { className: "cg-count" }, say(shown.length ? "receipt.open" : "receipt.none", values)),
    ),
    ...shown.slice(0, MOST).map((act) => bar(act, full, receipt.rows)),
    shown.length > MOST ? make("p", {}, say("receipt.more", { n: shown.length - MOST })) : null,
    ...notes.slice(0, MOST).map((note) => make("p", {}, note)),
  );
}
