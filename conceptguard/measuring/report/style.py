"""How a report card looks: one column on a phone, light or dark as its reader has it, no colour that says all alone."""

STYLE = """
:root { --ink:#1b1e24; --soft:#626a75; --paper:#fff; --card:#f5f6f8; --line:#dde1e7; --good:#17714a; --bad:#a8322b;
  --mid:#8a6100; --bar:#ccd2db }
@media (prefers-color-scheme: dark) { :root { --ink:#e7e9ed; --soft:#a0a8b4; --paper:#14161a; --card:#1d2026;
  --line:#343941; --good:#5cc596; --bad:#f08a82; --mid:#e0b04c; --bar:#434a55 } }
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1080px;
  margin: 0 auto; padding: 1.5rem 1rem 4rem; overflow-wrap: anywhere }
h1 { font-size: 1.65rem; line-height: 1.2; margin: 0 0 .4rem } h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem } .soft, figcaption, small { color: var(--soft) }
.lead { font-size: 1.1rem; max-width: 46rem }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: .8rem; margin: 1.4rem 0 }
.tile { background: var(--card); border-radius: 12px; padding: 1rem } .tile b { font-size: 1.9rem; display: block }
.tile .label { font-weight: 600 } .good { color: var(--good) } .bad { color: var(--bad) } .mid { color: var(--mid) }
.bar { position: relative; height: .55rem; border-radius: .3rem; background: var(--line); margin: .5rem 0;
  min-width: 6rem }
.bar i { position: absolute; height: 100%; border-radius: .3rem; background: var(--bar); border: 1px solid var(--soft) }
.bar u { position: absolute; width: 4px; margin-left: -2px; top: -.2rem; bottom: -.2rem; border-radius: 2px;
  background: currentColor }
table { border-collapse: collapse; width: 100%; font-size: .93rem } th { font-weight: 600; white-space: nowrap }
td, th { text-align: left; padding: .45rem .9rem .45rem 0; vertical-align: top; border-bottom: 1px solid var(--line) }
.facts th { width: 9rem; color: var(--soft) } .facts td, .facts th { border: 0; padding: .1rem .9rem .1rem 0 }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(15.5rem, 1fr)); gap: 1rem }
figure { margin: 0 } figure .two { display: grid; grid-template-columns: 1fr 1fr; gap: .35rem }
figure img, figure .none { width: 100%; aspect-ratio: 1; border-radius: 8px; display: block; background: var(--card) }
figure .none { border: 1px dashed var(--soft); display: grid; place-items: center; font-size: .85rem;
  color: var(--soft) }
figcaption { font-size: .85rem; margin-top: .3rem; line-height: 1.4 }
figcaption b { color: var(--ink); font-weight: 500 }
.strip { display: grid; grid-template-columns: repeat(auto-fill, 4.5rem); gap: .35rem; margin-top: .5rem }
.strip img { width: 100%; border-radius: 6px; display: block }
details { border-top: 1px solid var(--line); padding: .5rem 0 } summary { cursor: pointer }
pre { white-space: pre-wrap; font-size: .8rem; background: var(--card); padding: .8rem; border-radius: 8px }
ul { padding-left: 1.2rem }
.problem { border-left: 4px solid var(--line); padding: .1rem 0 .1rem .9rem; margin: .9rem 0 }
.problem p { margin: .2rem 0 } .state { font-size: .8rem; border: 1px solid currentColor; border-radius: 1rem;
  padding: 0 .55rem; margin-left: .4rem; white-space: nowrap }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: .8rem }
.cards > div { background: var(--card); border-radius: 12px; padding: .8rem 1rem } .cards p { margin: .1rem 0 }
@media (max-width: 46rem) { thead { display: none } tr { display: block; padding: .5rem 0; border-bottom: 1px solid
  var(--line) } td { display: block; border: 0; padding: .15rem 0 } td:first-child { font-weight: 600 }
  td:not(:first-child)::before { content: attr(data-head); display: block; font-size: .8rem; color: var(--soft) }
  .facts td, .facts th { display: block } }
@media print { details { display: none } }
"""
