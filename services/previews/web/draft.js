// Files while they are edited: what they were, what they are, and what has to be sent. Pure.

/** @typedef {Record<string, string>} Files */

export class Draft {
  /** @param {Files} [files] as they are stored */
  constructor(files = {}) {
    this.stored = { ...files };
    /** @type {Files} */
    this.files = { ...files };
  }

  get names() {
    return Object.keys(this.files);
  }

  /** @param {string} name */
  isChanged(name) {
    return this.files[name] !== this.stored[name];
  }

  /** What a request for a change has to say: the new texts, and null for what is gone. @returns {Record<string, string | null>} */
  get changes() {
    const changes = /** @type {Record<string, string | null>} */ ({});
    for (const name of this.names) if (this.isChanged(name)) changes[name] = this.files[name];
    for (const name of Object.keys(this.stored)) if (!(name in this.files)) changes[name] = null;
    return changes;
  }

  get hasChanges() {
    return Object.keys(this.changes).length > 0;
  }

  /**
   * Why a file cannot have this name, in words; empty when it can. The service has the last word.
   * @param {string} name
   */
  fault(name) {
    if (!name) return "A file needs a name.";
    if (name in this.files) return `There is a ${name} already.`;
    if (name.startsWith("/") || name.split("/").some((part) => part === ".." || part === "." || part === "")) {
      return "Write a path below the program's own directory, such as static/style.css.";
    }
    return /[\\\0-\x1f]/.test(name) ? "A name has no backslash and no control characters." : "";
  }

  /** @param {string} from @param {string} to */
  rename(from, to) {
    this.files = Object.fromEntries(Object.entries(this.files).map(([name, text]) => [name === from ? to : name, text]));
  }

  /** @param {string} name */
  remove(name) {
    delete this.files[name];
  }

  /** What was sent is what is stored now. @param {Files} sent */
  saved(sent) {
    this.stored = { ...sent };
  }
}
