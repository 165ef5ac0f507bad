// The pack's words in the language of the page: `conceptguard` in locales/<language>/main.json, as the server collects
// them. English where a language lacks one.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

let words = {};

export async function loadWords() {
  const answer = await api.fetchApi("/i18n");
  const all = answer.ok ? await answer.json() : {};
  const language = app.extensionManager?.setting?.get?.("Comfy.Locale") ?? "en";
  words = { ...all.en?.conceptguard, ...all[language]?.conceptguard };
}

// say("sidebar.count", { n: 3 }): the words with {n} filled in.
export function say(key, values = {}) {
  const found = key.split(".").reduce((part, name) => part?.[name], words) ?? key;
  return found.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}
