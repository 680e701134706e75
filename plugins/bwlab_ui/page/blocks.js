// The adapters and the drawing of the blocks, with a slider for each block of each adapter.

import { attempt, byId, make, remove } from "/api.js";
import { changed, LETTERS, neutral, page, path } from "/state.js";

const STEP = 0.05;
const FULL = 0.6; // the strongest colour on which text is legible, as in bwlab's reports
const MEANINGS = { te: "text encoder", rest: "outside the blocks", mid: "middle" };

const controls = []; // {slider, number, read}: to show scales that something else has set

function control(label, read, write) {
  const slider = make("input", { type: "range", min: "0", max: "2", step: String(STEP), "aria-label": label });
  const number = make("input", { type: "number", min: "0", max: "2", step: String(STEP), "aria-label": `${label}, as a number` });
  const take = (input, other) => () => {
    const value = Number(input.value);
    if (input.value === "" || !(value >= 0 && value <= 2)) return;
    other.value = String(value);
    write(value);
    changed("scales");
  };
  slider.addEventListener("input", take(slider, number));
  number.addEventListener("input", take(number, slider));
  number.addEventListener("blur", show);
  controls.push({ slider, number, read });
  return [slider, number];
}

export function show() {
  for (const { slider, number, read } of controls) {
    const value = Math.round(read() * 1000) / 1000;
    if (Number(slider.value) !== value) slider.value = String(value);
    if (document.activeElement !== number) number.value = String(value);
  }
  for (const [place, adapter] of page.state.adapters.entries()) showExtras(place, adapter);
}

const badge = (place) => make("span", { class: `badge of-${place}`, "aria-hidden": "true" }, LETTERS[place]);

function adapterRow(adapter, place) {
  const whole = control(`${adapter.name}, all blocks`, () => adapter.scales.whole, (value) => (adapter.scales.whole = value));
  const close = make("button", { type: "button", class: "close", "aria-label": `Close ${adapter.name}`, title: "Close" }, "×");
  close.addEventListener("click", () =>
    attempt(async () => {
      page.state = await remove(path(`/adapters/${place}`));
      changed("adapters");
    }),
  );
  return make(
    "div",
    { class: `adapter of-${place}` },
    badge(place),
    make("span", { class: "name", title: adapter.name }, adapter.name),
    ...whole,
    close,
    make("div", { class: "extras", id: `extras-${place}` }),
  );
}

// Scales of single cells and schedules come from the search; no slider shows them.
function showExtras(place, adapter) {
  const box = byId(`extras-${place}`);
  if (!box) return;
  const entries = Object.entries(adapter.scales.cells).map(([cell, value]) => [`${cell} at ${value}`, () => delete adapter.scales.cells[cell]]);
  if (adapter.scales.schedule) entries.push([`schedule ${adapter.scales.schedule}`, () => (adapter.scales.schedule = "")]);
  box.replaceChildren(
    ...entries.map(([text, drop]) => {
      const button = make("button", { type: "button", class: "chip", "aria-label": `Remove ${text} of ${adapter.name}` }, `${text} ×`);
      button.addEventListener("click", () => {
        drop();
        changed("scales");
      });
      return button;
    }),
  );
}

const isIn = (cell, block) => cell.startsWith(`${block}.`) || (block === "te" && /^te\d/.test(cell));

function card(block) {
  const rows = [...page.state.adapters.entries()]
    .filter(([, adapter]) => adapter.blocks.includes(block))
    .map(([place, adapter]) => {
      const cells = () => Object.keys(adapter.scales.cells).filter((cell) => isIn(cell, block));
      const mean = (names) => names.reduce((sum, name) => sum + adapter.scales.cells[name], 0) / names.length;
      const read = () => (cells().length ? mean(cells()) : (adapter.scales.blocks[block] ?? 1));
      const write = (value) => {
        for (const cell of cells()) delete adapter.scales.cells[cell]; // the slider is for the whole block
        adapter.scales.blocks[block] = value;
      };
      return make("div", { class: `row of-${place}` }, badge(place), ...control(`${adapter.name} in ${block}`, read, write));
    });
  const name = make("span", { class: "block" }, block, MEANINGS[block] ? make("small", {}, ` ${MEANINGS[block]}`) : "");
  const head = make("div", { class: "head" }, name, make("span", { class: "value" }));
  const body = rows.length ? rows : [make("p", { class: "note" }, "no adapter changes it")];
  return make("div", { class: "card", role: "group", "aria-label": `Block ${block}`, "data-block": block }, head, ...body);
}

export function draw() {
  const { adapters, shape } = page.state;
  controls.length = 0;
  const empty = make("p", { class: "note" }, "No adapter is open.");
  byId("adapters").replaceChildren(...(adapters.length ? adapters.map(adapterRow) : [empty]));
  const used = (block) => adapters.some((adapter) => adapter.blocks.includes(block));
  const others = make("div", { class: "others" }, ...shape.others.filter(used).map(card));
  const side = (name, blocks) => make("div", { class: `side ${name}` }, ...blocks.map(card));
  const drawn =
    shape.kind === "u"
      ? [side("down", shape.down), side("up", shape.up), side("middle", shape.middle)]
      : shape.lists.map((blocks) => side("list", blocks));
  byId("blocks").className = shape.kind;
  byId("blocks").replaceChildren(others, ...drawn);
  show();
}

export function offerColours() {
  const select = byId("colour");
  const chosen = select.value;
  const groups = Object.entries(page.state.measures).map(([group, measures]) =>
    make("optgroup", { label: group[0].toUpperCase() + group.slice(1) }, ...Object.keys(measures).map((name) => new Option(name, `${group}/${name}`))),
  );
  select.replaceChildren(new Option("nothing", ""), ...groups);
  const known = [...select.options].map((option) => option.value);
  select.value = known.includes(chosen) && chosen ? chosen : (known[1] ?? "");
  colour();
}

export function colour() {
  const [group, ...name] = byId("colour").value.split("/");
  const values = page.state.measures[group]?.[name.join("/")] ?? {};
  for (const one of document.querySelectorAll(".card")) {
    const [text, strength] = values[one.dataset.block] ?? ["", 0];
    one.style.setProperty("--strength", (Math.abs(strength) * FULL).toFixed(3));
    one.classList.toggle("less", strength < 0);
    one.querySelector(".value").textContent = text;
  }
}

// The sliders of one condition of "Block by block".
export function conditionScales({ adapter, block, way }) {
  return page.state.adapters.map((own, place) => {
    if (way === "off") return place === adapter ? { ...neutral(), blocks: { [block]: 0 } } : neutral();
    if (place !== adapter) return { ...neutral(), whole: 0 };
    return { ...neutral(), blocks: Object.fromEntries(own.blocks.map((name) => [name, Number(name === block)])) };
  });
}
