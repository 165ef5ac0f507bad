// Adds a guard to the graph's policy. A Policy node holds a file and one more guard; several of them make a chain, so
// what is chosen goes into the first place that is free, or into a new node at the chain's end.
import { changing, consumers, currentGraph, inputSlot, middleOfView, nodes, placeFor, setWidget, widget } from "./graph.js";
import { app } from "../../scripts/app.js";

export const POLICY = "ConceptGuardPolicy";
const TYPE = "CONCEPTGUARD_POLICY";
const GUARD = ["artifact", "method", "concept"];
const APART = 50; // pixels between nodes
let defaults = {};

// From the node's definition: what its widgets say while nothing is chosen.
export function learnPolicyNode(definition) {
  if (definition.name !== POLICY) return;
  const inputs = Object.entries(definition.input.required);
  defaults = Object.fromEntries(inputs.map(([name, spec]) => [name, spec[1]?.default]));
}

// choice: { file } or { artifact } or { method }; which widgets it takes up
function places(choice) {
  return "file" in choice ? ["file"] : GUARD;
}

function isFree(node, choice) {
  return places(choice).every((name) => widget(node, name).value === defaults[name]);
}

// Put a choice into a Policy node, in place of what it had there.
export function choose(node, choice) {
  changing(() => {
    for (const name of places(choice)) setWidget(node, name, choice[name] ?? defaults[name]);
  });
  return node;
}

// Put a choice into the graph; the Policy node that has it then. at: where a new node is wanted, whatever is free
export function add(choice, at = null) {
  return changing(() => {
    const chain = chainOf(startOfChain());
    const free = at ? null : chain.find((node) => isFree(node, choice));
    const node = free ?? append(chain.at(-1), at);
    const end = free ? chain.at(-1) : node;
    for (const reader of waiting()) end.connect(0, reader.node, reader.slot);
    return choose(node, choice);
  });
}

// A new Policy node behind the last one: whoever read that one's policy reads this one's.
function append(last, at) {
  const node = create(at, last ?? waiting()[0]?.node);
  if (!last) return node;
  for (const reader of consumers(last)) node.connect(0, reader.node, reader.slot);
  last.connect(0, node, inputSlot(node, "policy"));
  return node;
}

// The Policy node that is selected, or one that somebody reads from, or any.
function startOfChain() {
  const all = nodes(POLICY);
  const selected = all.find((node) => app.canvas.selected_nodes?.[node.id]);
  return selected ?? all.find((node) => consumers(node).length) ?? all[0];
}

function chainOf(node) {
  const chain = [];
  while (node && !chain.includes(node)) {
    chain.push(node);
    node = consumers(node).find((consumer) => consumer.node.comfyClass === POLICY)?.node;
  }
  return chain;
}

// beside: what it belongs to; left of a reader, below another Policy
function create(at, beside) {
  const node = LiteGraph.createNode(POLICY);
  const left = beside?.comfyClass === POLICY ? 0 : node.size[0] + APART;
  node.pos = at ?? placeFor(node.size, beside ? [beside.pos[0] - left, beside.pos[1]] : middleOfView());
  currentGraph().add(node);
  return node;
}

// Inputs that ask for a policy and have none, without which their nodes would not run.
function waiting() {
  return nodes()
    .filter((node) => node.comfyClass !== POLICY)
    .map((node) => ({ node, slot: inputSlot(node, "policy") }))
    .filter(({ node, slot }) => node.inputs?.[slot]?.type === TYPE && !node.isInputConnected(slot));
}
