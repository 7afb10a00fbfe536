// Shows what changed since: asks for the page again when it is looked at again, and loads it only if it differs.
const version = document.documentElement.dataset.version;
async function look() {
  if (!version || document.visibilityState !== "visible") return;
  const answer = await fetch(location.href, { cache: "no-store" }).catch(() => null);
  if (answer && answer.ok && !(await answer.text()).includes(`data-version="${version}"`)) location.reload();
}
addEventListener("focus", look);
addEventListener("pageshow", (event) => event.persisted && look());
document.addEventListener("visibilitychange", look);
// JupyterLab follows #cell-id= only where the notebook is open already: say it once more when its cells are there.
addEventListener("click", (event) => {
  const link = event.target.closest('a[target="course-lab"]');
  if (!link || !link.hash || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const lab = open(link.href, link.target);
  const notebook = decodeURIComponent(link.pathname.split("/").pop());
  let seen = 0;
  const timer = setInterval(() => {
    if (!lab || lab.closed || performance.now() - event.timeStamp > 120000) return clearInterval(timer);
    const tab = lab.document.querySelector("#jp-main-dock-panel .lm-TabBar-tab.jp-mod-current .lm-TabBar-tabLabel");
    const cells = lab.document.querySelectorAll(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell").length;
    if (tab && tab.textContent === notebook && cells > 1 && cells === seen) {
      clearInterval(timer);
      lab.history.replaceState({}, "", link.pathname);
      lab.location.replace(link.href);
    }
    seen = cells;
  }, 1000);
});
