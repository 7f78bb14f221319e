// Replaces the page's main part every two seconds while it is looked at. Without script the page is complete, only not live.
// Left alone: a page that is paused, and one whose reader is at work in it (focus or selected text inside), who would lose the place.
const main = document.querySelector("main");
const pause = document.getElementById("pause");
let paused = false;

pause.hidden = false;
pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
});

const isBusy = () => main.contains(document.activeElement) && document.activeElement !== main;
const isSelected = () => main.contains(getSelection().anchorNode) && !getSelection().isCollapsed;

setInterval(async () => {
  if (document.hidden || paused || isBusy() || isSelected()) return;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (!answer.ok || answer.redirected) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (paused || isBusy() || isSelected()) return;
    main.replaceChildren(...page.querySelector("main").childNodes);
  } catch {
    // The gateway is restarting; the next round will tell.
  }
}, 2000);
