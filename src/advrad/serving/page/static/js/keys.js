// Single keys. They rest while a person types, holds a modifier, or has a dialog open.

const TYPING = "input:not([type=range], [type=checkbox]), select, textarea, dialog";

/** Call an action for a key, unless `on()` says that single keys are off. */
export function useKeys(actions, on = () => true) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !on()) return;
    if (event.target.closest?.(TYPING) || document.querySelector("dialog[open]")) return;
    const action = actions[event.key.toLowerCase()];
    if (action === undefined) return;
    event.preventDefault();
    action();
  });
}
