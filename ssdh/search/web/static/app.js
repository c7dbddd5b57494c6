"use strict";
// The state is in the address: "#" the collection, "#row=12" an image of it ("#id=12" where rows shift), "#code=ab01…" a photo's code, "#text=a%20dog", "#duplicates"
// its near-identical images (groups.js).

const FIRST = 60, STEP = 120, PAGE = 60, SHOWN_AT_FIRST = 24, SHORTLIST = 500;
const $ = (id) => document.getElementById(id);
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

let about;             // what the server tells about itself
let current;           // the answer to the last search; undefined while the collection is shown
let radius;            // the chosen radius; undefined until the first search
let radiusIsChosen = false;
let page = { seed: 1, start: 0 };
let pending = new AbortController();
const photos = new Map();   // code → {url, name, file} of photos that were sent from this page

// --- talking to the server ---------------------------------------------------------------------------------------

async function ask(path, options = {}) {
  pending.abort();
  pending = new AbortController();
  const { signal } = pending;
  document.body.classList.add("busy");
  try {
    const response = await fetch(path, { ...options, signal });
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(answer.error || `The server answered with error ${response.status}.`);
    return answer;
  } catch (error) {
    if (error instanceof TypeError) throw new Error("The server does not answer: is “python -m ssdh serve” still running?");
    throw error;
  } finally {
    if (!signal.aborted) document.body.classList.remove("busy");
  }
}

async function attempt(work) {
  showError("");
  try {
    await work();
  } catch (error) {
    if (error.name !== "AbortError") showError(error.message);
  }
}

function showError(text) {
  for (const id of ["error", "groups-error"]) {
    $(id).hidden = !text;
    $(id).textContent = text && text[0].toUpperCase() + text.slice(1);
  }
}

// --- what is shown -----------------------------------------------------------------------------------------------

// How a query is asked for again, and what the address says of it.
const keyOfImage = (image) => image.id !== undefined ? ["id", image.id] : ["row", image.row];
const keyOfQuery = (query) => query.row !== undefined ? keyOfImage(query)
  : query.text !== undefined ? ["text", query.text] : ["code", query.code];

// The answer for "row=12", "id=12", "text=…" or "code=ab01…". A photo of this page is sent again: its code alone tells less than it does.
function search(key, value, top) {
  const photo = key === "code" && photos.get(value);
  const rerank = $("rerank").checked && (photo || key !== "code") ? `&rerank=${SHORTLIST}` : "";
  if (!photo) return ask(`/api/search?${key}=${encodeURIComponent(value)}&top=${top}${rerank}`);
  return send(photo.file, top, rerank);
}

function send(file, top, rerank) {
  return ask(`/api/search?top=${top}${rerank}`, {
    method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" },
  });
}

async function route() {
  if (location.hash === "#duplicates") return attempt(showGroups);
  document.body.classList.remove("grouping");
  const [, key, encoded] = location.hash.match(/^#(row|id|code|text)=(.+)$/) || [];
  const value = key && decodeURIComponent(encoded);
  const known = current && key === "code" && String(keyOfQuery(current.query)) === String([key, value]);
  if (!key) return attempt(showCollection);
  if (known) return undefined;
  return attempt(async () => showSearch(await search(key, value, FIRST)));
}

async function showCollection() {
  const query = page.seed === null ? `start=${page.start}` : `seed=${page.seed}`;
  const answer = await ask(`/api/images?${query}&count=${PAGE}`);
  current = undefined;
  for (const id of ["analysis", "back", "more", "empty"]) $(id).hidden = true;
  document.body.classList.remove("searched");
  $("browse").hidden = $("hint").hidden = false;
  const last = page.start + answer.images.length;
  const whole = answer.images.length === answer.total;
  $("results-title").textContent = whole ? `All ${plural(answer.total, "image")}`
    : page.seed === null ? `Images ${(page.start + 1).toLocaleString("en")}–${last.toLocaleString("en")} of ${answer.total.toLocaleString("en")}`
    : `${answer.images.length} of ${answer.total.toLocaleString("en")} images, at random`;
  $("previous").disabled = page.seed !== null || page.start === 0;
  $("next").disabled = page.seed === null ? last >= answer.total : whole;
  $("browse").hidden = whole;
  setPreview("", "", "");
  fillGrid(answer.images);
}

function showSearch(answer) {
  const changed = !current || current.query.code !== answer.query.code || current.query.row !== answer.query.row;
  current = answer;
  for (const id of ["analysis", "back"]) $(id).hidden = false;
  $("rerank").disabled = keyOfQuery(answer.query)[0] === "code" && !photos.has(answer.query.code);
  document.body.classList.add("searched");
  $("browse").hidden = $("hint").hidden = true;
  const { query } = answer;
  const photo = query.text === undefined ? photos.get(query.code) : undefined;
  if (query.row !== undefined) setPreview(query.preview, query.name, [query.name, ...query.classes].join(" · "));
  else if (photo) setPreview(photo.url, photo.name, photo.name);
  else setPreview("", "", query.text === undefined ? "A code from a link" : `“${query.text}”`);
  $("add-photo").hidden = !(about.adds && photo && query.row === undefined);
  $("added").textContent = photo?.added || "";
  $("add").disabled = Boolean(photo?.added);
  $("code").replaceChildren(bits(query.code, query.code));
  if (!radiusIsChosen) radius = firstRadius(answer);
  $("radius").max = answer.bits;
  $("radius").value = radius;
  $("scale-end").textContent = answer.bits;
  showRadius();
  if (changed) {
    $("results-title").focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

// The smallest radius within which there is a first screen of images; of a re-ranked search, that of all its results.
function firstRadius({ histogram, results, reranked }) {
  if (reranked) return Math.max(0, ...results.map((result) => result.distance));
  let sum = 0;
  const found = histogram.findIndex((count) => (sum += count) >= SHOWN_AT_FIRST);
  return found < 0 ? histogram.findLastIndex((count) => count > 0) : found;
}

function showRadius() {
  const { histogram, results } = current;
  const within = histogram.slice(0, radius + 1).reduce((sum, count) => sum + count, 0);
  const total = histogram.reduce((sum, count) => sum + count, 0);
  const nearest = histogram.findIndex((count) => count > 0);
  const shown = results.filter((result) => result.distance <= radius);
  const text = `${plural(radius, "bit")}: ${plural(within, "image")}`;
  $("radius-text").textContent = text;
  $("radius").setAttribute("aria-valuetext", `up to ${text}`);
  $("summary").textContent = total === 0 ? "There is no other image in this collection."
    : `${within.toLocaleString("en")} of ${plural(total, "image")} (${share(within / total)}) lie within ` +
      `${plural(radius, "bit")}; a typical image has ${share(typicalWithin(radius))} there. The nearest is ` +
      `${plural(nearest, "bit")} away.`;
  drawHistogram(histogram, total);
  const missing = within - shown.length;
  $("results-title").textContent = shown.length === 0 ? "Nearest images"
    : missing > 0 ? `The ${shown.length} nearest of ${plural(within, "image")}` : plural(shown.length, "nearest image");
  $("more").hidden = !(missing > 0 && shown.length === results.length && results.length < about.max_top);
  $("empty").hidden = shown.length > 0 || total === 0;
  $("empty").firstElementChild.textContent = nearest < 0 ? "" : within > 0
    ? "This kind of index found none of the images within the radius."
    : `No image within ${plural(radius, "bit")}: the nearest is ${plural(nearest, "bit")} away.`;
  $("widen").hidden = within > 0;
  fillGrid(shown);
}

const share = (part) => `${(100 * part).toLocaleString("en", { maximumSignificantDigits: 2 })} %`;
const typicalWithin = (limit) => about.typical.slice(0, limit + 1).reduce((sum, part) => sum + part, 0);

function setPreview(url, alt, name) {
  const image = $("preview");
  image.classList.remove("tiny");
  image.hidden = !url;
  if (url) image.src = url;
  else image.removeAttribute("src");
  image.alt = alt;
  $("name").textContent = name;
  $("drop").classList.toggle("filled", Boolean(url));
}

// --- pictures of codes and distances -----------------------------------------------------------------------------

function svg(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

const bitAt = (code, i) => (parseInt(code[i >> 2], 16) >> (3 - (i & 3))) & 1;

// A code as a strip of cells, read like text; cells that differ from the query's are orange, framed for 0.
function bits(code, query) {
  const perLine = about.bits > 256 ? 64 : about.bits > 64 ? 32 : 16;
  const paths = { one: "", zero: "", differs: "", "differs off": "" };
  const differing = [];
  for (let i = 0; i < about.bits; i++) {
    const bit = bitAt(code, i), same = bit === bitAt(query, i);
    const x = (i % perLine) * 5, y = Math.floor(i / perLine) * 5;
    if (same) paths[bit ? "one" : "zero"] += `M${x} ${y}h4v4h-4z`;
    else if (bit) paths.differs += `M${x} ${y}h4v4h-4z`;
    else paths["differs off"] += `M${x + 0.375} ${y + 0.375}h3.25v3.25h-3.25z`;
    if (!same) differing.push(i + 1);
  }
  const lines = Math.ceil(about.bits / perLine);  // a short code keeps the size of its cells
  const strip = svg("svg", { class: "bits", viewBox: `0 0 ${perLine * 5 - 1} ${lines * 5 - 1}`, role: "img" });
  strip.setAttribute("aria-label", code === query ? `code ${code}`
    : `bits that differ: ${differing.slice(0, 16).join(", ")}${differing.length > 16 ? " and others" : ""}`);
  for (const [name, d] of Object.entries(paths)) if (d) strip.append(svg("path", { class: name, d }));
  return strip;
}

// Bars stand above the slider's positions: distance d at x = d. Heights are square roots, so that few images show.
function drawHistogram(histogram, total) {
  const end = histogram.length - 1, half = Math.min(0.4, end * 0.02);
  const typical = about.typical.map((part) => Math.sqrt(part * total));
  const top = Math.max(...histogram.map(Math.sqrt), ...typical, 1);
  const height = (value) => 100 * (1 - value / top);
  const bars = { inside: "", outside: "" };
  histogram.forEach((count, d) => {
    if (count) bars[d <= radius ? "inside" : "outside"] += `M${d - half} 100V${height(Math.sqrt(count))}h${2 * half}V100z`;
  });
  const line = typical.map((value, d) => `${d ? "L" : "M"}${d} ${height(value)}`).join("");
  $("histogram").setAttribute("viewBox", `0 0 ${end} 100`);
  $("histogram").setAttribute("aria-label", `Images at each distance. ${$("summary").textContent}`);
  $("histogram").replaceChildren(
    svg("path", { class: "outside", d: bars.outside }), svg("path", { class: "inside", d: bars.inside }),
    svg("path", { class: "typical", d: line }),
  );
}

function fillGrid(images) {
  const old = new Map([...$("grid").children].map((item) => [item.dataset.key, item]));
  $("grid").replaceChildren(...images.map((image) => {
    const key = `${image.id ?? image.row} ${current ? current.query.code : ""} ${image.similarity ?? ""}`;
    return old.get(key) || card(image, key);
  }));
}

// A name whose end stays in sight where there is little room: "…0000042.jpg", its folders in a line above.
function fileName(name) {
  const parts = name.split("/"), shown = document.createElement("span");
  const line = (kind, text) => {
    const element = document.createElement("span"), inner = document.createElement("bdi");
    element.className = kind;
    inner.textContent = text;
    element.append(inner);
    shown.append(element);
  };
  shown.className = "name";
  if (parts.length > 1) line("folders", parts.slice(0, -1).join("/"));
  line("file", parts.at(-1));
  return shown;
}

function card(image, key) {
  const item = document.createElement("li"), button = document.createElement("button");
  const picture = document.createElement("img"), label = document.createElement("span");
  item.dataset.key = key;
  button.type = "button";
  button.className = "card";
  button.dataset.row = image.row;
  if (image.id !== undefined) button.dataset.id = image.id;
  picture.loading = "lazy";
  picture.alt = "";
  picture.src = image.thumbnail;
  picture.addEventListener("error", () => { picture.alt = "cannot be read"; });
  label.className = "label";
  label.append(fileName(image.name), image.classes.join(" · "));
  label.title = [image.name, ...image.classes].join(" · ");
  button.append(picture);
  if (current) {
    const distance = document.createElement("span");
    distance.className = "distance";
    const bitsAway = document.createElement("span"), similarity = document.createElement("span");
    bitsAway.textContent = plural(image.distance, "bit");
    similarity.className = "similarity";
    similarity.textContent = image.similarity?.toFixed(3) ?? "";
    similarity.title = "Similarity of the features";
    distance.append(bitsAway, similarity);
    button.append(distance, bits(image.code, current.query.code));
  }
  button.append(label);
  item.append(button);
  return item;
}

// --- what a person does ------------------------------------------------------------------------------------------

function sendPhoto(file) {
  if (!file) return showError("That was not a file: drop a photo from a folder, or choose one.");
  return attempt(async () => {
    const limit = about.max_upload;
    if (file.size > limit) throw new Error(`“${file.name}” is larger than ${Math.floor(limit / 1048576)} MiB: send a smaller file.`);
    if (file.size === 0) throw new Error(`“${file.name}” is empty.`);
    const answer = await send(file, FIRST, $("rerank").checked ? `&rerank=${SHORTLIST}` : "");
    const { code } = answer.query;
    if (photos.has(code)) URL.revokeObjectURL(photos.get(code).url);
    photos.set(code, { url: URL.createObjectURL(file), name: file.name, file });
    showSearch(answer);
    history.pushState(null, "", `#code=${code}`);
    document.body.classList.remove("grouping");
  });
}

async function addPhoto() {
  const { code } = current.query, photo = photos.get(code);
  const answer = await ask(`/api/images?name=${encodeURIComponent(photo.name)}`, { method: "POST", body: photo.file });
  photo.added = answer.new ? `Added: it is image ${answer.id} now.` : `It is there already: image ${answer.id}.`;
  about = await ask("/api/about");
  showFacts();
  showSearch(await search("code", code, FIRST));
}

function listen() {
  addEventListener("hashchange", route);
  $("photo").addEventListener("change", (event) => {
    if (event.target.files.length) sendPhoto(event.target.files[0]);
    event.target.value = "";
  });
  $("radius").addEventListener("input", (event) => {
    radius = Number(event.target.value);
    radiusIsChosen = true;
    showRadius();
  });
  $("widen").addEventListener("click", () => {
    radius = current.histogram.findIndex((count) => count > 0);
    $("radius").value = radius;
    showRadius();
    $("results-title").focus();
  });
  $("more").addEventListener("click", () => attempt(async () => {
    const { query, results } = current;
    showSearch(await search(...keyOfQuery(query), Math.min(results.length + STEP, about.max_top)));
  }));
  $("rerank").addEventListener("change", () => attempt(async () => {
    if (!current) return;
    radiusIsChosen = false;
    showSearch(await search(...keyOfQuery(current.query), FIRST));
  }));
  $("words").addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = `text=${encodeURIComponent($("text").value)}`;
  });
  $("add").addEventListener("click", () => attempt(addPhoto));
  $("sample").addEventListener("click", () => {
    page = { seed: Math.floor(Math.random() * 2 ** 32), start: 0 };
    attempt(showCollection);
  });
  $("next").addEventListener("click", () => {
    page = { seed: null, start: page.seed === null ? page.start + PAGE : 0 };
    attempt(showCollection);
  });
  $("previous").addEventListener("click", () => {
    page = { seed: null, start: Math.max(0, page.start - PAGE) };
    attempt(showCollection);
  });
  $("grid").addEventListener("click", (event) => {
    const chosen = event.target.closest(".card");
    if (chosen) location.hash = keyOfImage(chosen.dataset).join("=");
  });
  $("grid").addEventListener("keydown", moveFocus);
  document.addEventListener("load", (event) => {
    const image = event.target;
    if (image.tagName === "IMG") image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) <= 64);
  }, true);
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((found) => found.type.startsWith("image/"));
    if (file) sendPhoto(file);
  });
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      const leaves = name === "drop" || (name === "dragleave" && !event.relatedTarget);
      document.body.classList.toggle("dragging", !leaves);
    });
  }
  document.addEventListener("drop", (event) => sendPhoto(event.dataTransfer.files[0]));
}

// Arrow keys walk over the grid as it is laid out.
function moveFocus(event) {
  const cards = [...$("grid").querySelectorAll(".card")];
  const here = cards.indexOf(document.activeElement);
  const top = cards[0]?.offsetTop;
  const columns = Math.max(1, cards.filter((found) => found.offsetTop === top).length);
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  if (here < 0 || step === undefined || !cards[here + step]) return;
  event.preventDefault();
  cards[here + step].focus();
}

async function start() {
  await attempt(async () => { about = await ask("/api/about"); });
  if (!about) return;
  document.title = `${about.title}: search by image`;
  showFacts();
  $("rerank-switch").hidden = !about.features;
  $("words").hidden = !about.texts;
  $("details").open = innerWidth > 768;  // on a phone the images come first
  $("notice").textContent = about.notice;
  $("notice").hidden = !about.notice;
  listen();
  listenToGroups();
  await route();
}

function showFacts() {
  $("facts").textContent = `${about.title} · ${plural(about.images, "image")} · ${about.bits}-bit codes` +
    (about.index === "flat" ? "" : ` · approximate search (${about.index})`);
}

start();
