// What a mark says is shown at once, also to a finger; without this script the browser's own titles do.
const tip = document.body.appendChild(document.createElement("div"));
tip.id = "tip";
tip.hidden = true;
for (const title of document.querySelectorAll("svg title")) {
  title.parentNode.dataset.tip = title.textContent;
  title.remove();
}
for (const cell of document.querySelectorAll("td[title]")) {
  cell.dataset.tip = cell.title;
  cell.removeAttribute("title");
}
document.addEventListener("pointerover", (event) => {
  const text = event.target.dataset?.tip;
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const at = event.target.getBoundingClientRect();
  const left = at.left + at.width / 2 - tip.offsetWidth / 2;
  tip.style.left = `${Math.max(8, Math.min(left, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${at.top > tip.offsetHeight + 16 ? at.top - tip.offsetHeight - 8 : at.bottom + 8}px`;
});
document.addEventListener("scroll", () => { tip.hidden = true; }, true);
addEventListener("beforeprint", () => { for (const more of document.querySelectorAll("details")) more.open = true; });
