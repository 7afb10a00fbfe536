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
// Opens a file in the JupyterLab that is there already, without loading it anew, and leads to an exercise's cell.
// JupyterLab follows #cell-id= only where the notebook is open, and forgets it while it is starting. So the cell is
// asked for until it has been the active one and in sight for two seconds, or the learner has taken over.
addEventListener("click", (event) => {
  const link = event.target.closest('a[target="course-lab"]');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const lab = open("", link.target);
  if (!lab) return;
  event.preventDefault();
  const path = decodeURIComponent(link.pathname.split("/lab/tree/")[1] ?? "");
  const jupyter = () => {
    try {
      return lab.jupyterapp;
    } catch {
      return null; // that tab shows another site by now
    }
  };
  const app = jupyter();
  if (!app) lab.location.href = link.href;
  else if (path) app.restored.then(() => app.commands.execute("docmanager:open", { path }));
  lab.focus();
  if (!link.hash) return;
  const cell = decodeURIComponent(link.hash.replace("#cell-id=", ""));
  const stop = () => clearInterval(timer);
  let asked = false;
  let settled = 0;
  const timer = setInterval(() => {
    if (lab.closed || performance.now() - event.timeStamp > 120000) return stop();
    const panel = jupyter()?.shell.currentWidget;
    if (panel?.context?.path !== path) return;
    const index = panel.content.widgets?.findIndex((each) => each.model.id === cell) ?? -1;
    if (index < 0) return;
    const { top, bottom } = panel.content.widgets[index].node.getBoundingClientRect();
    const there = panel.content.activeCellIndex === index && bottom > 0 && top < lab.innerHeight;
    settled = asked && there ? settled + 1 : 0;
    if (settled === 4) return stop();
    const touches = asked ? [] : ["pointerdown", "keydown", "wheel"];
    touches.forEach((kind) => lab.addEventListener(kind, stop, { once: true, capture: true }));
    asked = true;
    // Not by setFragment: that waits until JupyterLab has drawn every cell, which it does in idle moments.
    panel.content.activeCellIndex = index;
    panel.content.scrollToItem(index, "center").catch(() => {}); // the cell may not be drawn yet
  }, 500);
});
