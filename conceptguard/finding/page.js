// Corrections are in the page alone until somebody saves them, or where `conceptguard find --correct` or ComfyUI serves
// the page.
const sections = [...document.querySelectorAll('section')]
const field = (section, name) => section.querySelector(name)
const struck = section => field(section, '.strike').checked
const nameOf = section => field(section, '.name').value.trim()
const renamed = section => nameOf(section) !== field(section, '.name').defaultValue
const quoted = text => JSON.stringify(text)
const share = number => Math.round(Math.min(1, Math.max(0, number)) * 1000) / 1000

// The concept file: a number evokes nothing, until somebody says what it is.
const concepts = () => sections.filter(s => !struck(s))
  .map(s => ({ name: nameOf(s), prompts: renamed(s) ? [nameOf(s)] : JSON.parse(s.dataset.prompts) }))
  .filter(c => c.prompts.length)
  .map(c => `- {name: ${quoted(c.name)}, prompts: [${c.prompts.map(quoted).join(', ')}]}\n`).join('')

const corrections = () => ({
  strike: sections.filter(struck).map(s => s.dataset.name),
  rename: Object.fromEntries(sections.filter(s => !struck(s) && renamed(s)).map(s => [s.dataset.name, nameOf(s)])),
  boxes: [...document.querySelectorAll('.box')].map(box => ({
    concept: box.closest('section').dataset.name, picture: box.parentElement.dataset.picture,
    here: !box.classList.contains('not'), box: JSON.parse(box.dataset.edges) })),
  rules: (document.querySelector('#rules')?.value ?? '').split('\n').map(rule => rule.trim()).filter(Boolean),
})

const file = (link, text) => { document.querySelector(link).href = 'data:text/yaml;charset=utf-8,' + encodeURIComponent(text) }
const show = () => {
  sections.forEach(s => s.classList.toggle('struck', struck(s)))
  document.querySelector('#file').textContent = concepts()
  file('#save', concepts())
  file('#corrections', JSON.stringify(corrections(), null, 1) + '\n')
}

// A box is drawn with the pointer; a click on one takes it away.
const place = (box, edges) => {
  const [left, top, right, bottom] = edges
  box.dataset.edges = JSON.stringify(edges)
  box.style.cssText = `left:${100 * left}%;top:${100 * top}%;width:${100 * (right - left)}%;height:${100 * (bottom - top)}%`
}
const at = (picture, event) => {
  const around = picture.getBoundingClientRect()
  return [share((event.clientX - around.left) / around.width), share((event.clientY - around.top) / around.height)]
}
document.querySelectorAll('.seen').forEach(picture => picture.addEventListener('pointerdown', down => {
  if (down.target.classList.contains('box')) { down.target.remove(); show(); return }
  const [x, y] = at(picture, down), box = picture.appendChild(document.createElement('div'))
  box.className = field(picture.closest('section'), '.no').checked ? 'box not' : 'box'
  picture.setPointerCapture(down.pointerId)
  const move = event => {
    const [u, v] = at(picture, event)
    place(box, [Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)])
  }
  move(down)
  picture.onpointermove = move
  picture.onpointerup = picture.onpointercancel = () => {
    picture.onpointermove = picture.onpointerup = picture.onpointercancel = null
    const [left, top, right, bottom] = JSON.parse(box.dataset.edges)
    if (right - left < 0.03 || bottom - top < 0.03) box.remove()
    show()
  }
}))

// What was corrected before.
const said = JSON.parse(document.body.dataset.said)
const section = name => sections.find(s => s.dataset.name === name)
for (const name of said.strike ?? []) if (section(name)) field(section(name), '.strike').checked = true
for (const [name, now] of Object.entries(said.rename ?? {})) if (section(name)) field(section(name), '.name').value = now
for (const { concept, picture, here, box: edges } of said.boxes ?? []) {
  const seen = [...section(concept)?.querySelectorAll('.seen') ?? []].find(one => one.dataset.picture === picture)
  if (!seen) continue
  const box = seen.appendChild(document.createElement('div'))
  box.className = here ? 'box' : 'box not'
  place(box, edges)
}
if (said.rules?.length && document.querySelector('#rules')) document.querySelector('#rules').value = said.rules.join('\n')

const apply = document.querySelector('#apply')
apply?.addEventListener('click', async () => {
  const told = document.querySelector('#told')
  apply.disabled = true
  told.textContent = 'Correcting …'
  try {
    const answer = await fetch('corrections', { method: 'POST', body: JSON.stringify(corrections()) })
    told.textContent = await answer.text()
  } catch {
    told.textContent = 'No answer: what served this page has ended.'
  }
  apply.disabled = false
})
document.addEventListener('input', show)
show()
