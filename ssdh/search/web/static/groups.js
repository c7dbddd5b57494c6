"use strict";
// Near-identical images, group by group. What one keeps or drops stays in this page until it is downloaded as a table:
// nothing is deleted.

const GROUPS = 20;
const decisions = new Map();   // key → {decision, group, image}, in the order in which they were made
let groups;                    // the last answer; undefined until the view is opened

const keyOf = (image) => `${image.id} ${image.name}`;

// --- what is shown -------------------------------------------------------------------------------------------------

function askGroups(start, chosen) {
  return ask(`/api/duplicates?${new URLSearchParams({ start, count: GROUPS, ...chosen })}`);
}

// The radius and the similarity of the form; nothing before the server has said what is usual.
function chosenLimits() {
  const limits = groups ? { radius: $("groups-radius").value, min_similarity: $("groups-similarity").value } : {};
  return Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== ""));
}

async function showGroups() {
  document.body.classList.add("grouping");
  $("groups-summary").textContent = "Comparing all images: of a million it takes minutes.";
  const answer = await askGroups(0, chosenLimits());
  groups = answer;
  $("groups-radius").value = answer.radius;
  $("groups-similarity").value = answer.min_similarity ?? "";
  $("groups-similarity").disabled = answer.min_similarity === null;  // no features: codes alone decide
  $("groups-summary").textContent = answer.total === 0 ? "No two images are so near to each other."
    : `${plural(answer.total, "group")}, ${plural(answer.images, "file")} in them.`;
  $("groups").replaceChildren();
  appendGroups(answer);
}

async function showMoreGroups() {
  appendGroups(await askGroups($("groups").childElementCount, chosenLimits()));
}

function appendGroups(answer) {
  $("groups").append(...answer.groups.map(groupOf));
  $("groups-more").hidden = $("groups").childElementCount >= answer.total;
  showDecisions();
}

function groupOf(group) {
  const item = document.createElement("li"), head = document.createElement("div"), list = document.createElement("ol");
  const title = document.createElement("h3"), rest = document.createElement("button");
  const shown = group.images.length;
  title.textContent = `Group ${group.group}: ${plural(group.size, "file")}` +
    (shown < group.size ? `, the first ${shown.toLocaleString("en")} of them` : "");
  rest.type = "button";
  rest.textContent = "Keep the first, drop the others";
  rest.addEventListener("click", () => {
    group.images.forEach((image, place) => decide(group.group, image, place ? "drop" : "keep"));
    showDecisions();
  });
  head.className = "bar";
  head.append(title, rest);
  list.className = "members";
  list.append(...group.images.map((image, place) => memberOf(group.group, image, place)));
  item.className = "group";
  item.append(head, list);
  return item;
}

function memberOf(group, image, place) {
  const item = document.createElement("li"), link = document.createElement("a"), picture = document.createElement("img");
  const near = document.createElement("span"), choice = document.createElement("span");
  item.dataset.key = keyOf(image);
  item.className = "member";
  picture.loading = "lazy";
  picture.alt = "";
  picture.addEventListener("error", () => { picture.alt = "cannot be read"; });
  if (image.thumbnail) {
    picture.src = image.thumbnail;
    link.href = `#${keyOfImage(image).join("=")}`;
  } else picture.alt = "added meanwhile";
  link.title = image.name;
  link.append(picture, fileName(image.name));
  near.className = "distance";
  near.textContent = image.exact ? "exact copy" : place === 0 ? "reference for the others"
    : [plural(image.distance, "bit"), ...image.similarity === null ? [] : [image.similarity.toFixed(3)]].join(" · ");
  choice.className = "choice";
  for (const decision of ["keep", "drop"]) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.decision = decision;
    button.textContent = decision === "keep" ? "Keep" : "Drop";
    button.setAttribute("aria-label", `${button.textContent} ${image.name}`);
    button.addEventListener("click", () => {
      const again = decisions.get(keyOf(image))?.decision === decision;  // a second click takes it back
      decide(group, image, again ? "" : decision);
      showDecisions();
    });
    choice.append(button);
  }
  item.append(link, near, choice);
  return item;
}

// --- what is decided -----------------------------------------------------------------------------------------------

function decide(group, image, decision) {
  if (decision) decisions.set(keyOf(image), { decision, group, image });
  else decisions.delete(keyOf(image));
}

function showDecisions() {
  for (const item of document.querySelectorAll(".member")) {
    const decision = decisions.get(item.dataset.key)?.decision;
    item.classList.toggle("dropped", decision === "drop");
    for (const button of item.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.decision === decision));
    }
  }
  const made = [...decisions.values()].map((found) => found.decision);
  const count = (decision) => made.filter((found) => found === decision).length.toLocaleString("en");
  $("decided").textContent = `${count("keep")} to keep, ${count("drop")} to drop`;
  $("download").disabled = made.length === 0;
}

// The table of `ssdh duplicates --csv` with a column more, of the files that were decided on.
function decisionsTable() {
  const header = ["group", "id", "name", "sha256", "distance", "similarity", "exact_copy", "decision"];
  const rows = [...decisions.values()].map(({ decision, group, image }) => [
    group, image.id, image.name, image.sha256, image.distance, image.similarity ?? "", Number(image.exact), decision,
  ]);
  const cell = (value) => /[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value;
  return [header, ...rows].map((row) => `${row.map(cell).join(",")}\n`).join("");
}

function downloadDecisions() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([decisionsTable()], { type: "text/csv" }));
  link.download = "decisions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function listenToGroups() {
  $("groups-limits").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(showGroups);
  });
  $("groups-more").addEventListener("click", () => attempt(showMoreGroups));
  $("download").addEventListener("click", downloadDecisions);
}
