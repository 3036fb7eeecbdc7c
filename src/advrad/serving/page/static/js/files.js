// Files that a person drops or chooses: single ones, many, or folders with what is below them.

function entryFiles(entry) {
  if (entry.isFile) return new Promise((resolve, reject) => entry.file((file) => resolve([file]), reject));
  const reader = entry.createReader();
  const batch = () => new Promise((resolve, reject) => reader.readEntries(resolve, reject));
  return (async () => {
    const found = [];
    // A reader gives at most 100 entries at a time, and an empty list at the end.
    for (let entries = await batch(); entries.length > 0; entries = await batch()) {
      for (const inner of entries) found.push(...(await entryFiles(inner)));
    }
    return found;
  })();
}

/** All files of a drop, folders included, in the order of their names. */
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.length === 0) return seen([...transfer.files]);
  const found = await Promise.all(entries.map(entryFiles));
  return seen(found.flat());
}

/** Leave out hidden files, such as those that file managers write beside pictures, and sort by name. */
export function seen(files) {
  return [...files]
    .filter((file) => !file.name.startsWith(".") && file.name !== "Thumbs.db")
    .sort((one, other) => place(one).localeCompare(place(other), undefined, { numeric: true }));
}

function place(file) {
  return file.webkitRelativePath || file.name;
}
