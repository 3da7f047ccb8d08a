// How high rows are and where that puts them: any number of rows, most of one height, some measured to be others. Pure.
//
// A Fenwick tree holds by how much rows differ from the usual height, so that the place of a row, the row at a place,
// and a change cost log₂(rows) steps: 18 for 200,000.

export class Heights {
  /** @param {number} usual pixels */
  constructor(usual) {
    this.usual = usual;
    this.count = 0;
    this.differences = new Float64Array(1024);
    this.tree = new Float64Array(1025);
  }

  get total() {
    return this.offset(this.count);
  }

  /** @param {number} row */
  of(row) {
    return this.usual + this.differences[row];
  }

  /**
   * Rows are added, or taken away, at the end.
   * @param {number} count
   */
  resize(count) {
    if (count < this.count) {
      this.differences.fill(0, count, this.count);
      this.count = count;
      this.rebuild();
    }
    if (count > this.differences.length) {
      const grown = new Float64Array(Math.max(count, 2 * this.differences.length));
      grown.set(this.differences);
      this.differences = grown;
      this.count = count;
      this.rebuild();
    }
    this.count = count;
  }

  /**
   * Rows are put in before row `at`.
   * @param {number} at
   * @param {number} rows
   */
  insert(at, rows) {
    const before = this.count;
    this.resize(before + rows);
    this.differences.copyWithin(at + rows, at, before);
    this.differences.fill(0, at, at + rows);
    this.rebuild();
  }

  /**
   * @param {number} row
   * @param {number} height
   * @returns {boolean} whether it was another
   */
  set(row, height) {
    const change = height - this.usual - this.differences[row];
    if (Math.abs(change) < 0.01) return false;
    this.differences[row] += change;
    for (let node = row + 1; node < this.tree.length; node += node & -node) this.tree[node] += change;
    return true;
  }

  /**
   * @param {number} from
   * @param {number} to the row after the last one
   * @param {number} height
   */
  fill(from, to, height) {
    this.differences.fill(height - this.usual, from, to);
    this.rebuild();
  }

  /**
   * All rows are as usual again.
   * @param {number} [usual]
   */
  reset(usual = this.usual) {
    this.usual = usual;
    this.differences.fill(0);
    this.tree.fill(0);
  }

  /**
   * Where a row begins.
   * @param {number} row
   */
  offset(row) {
    let sum = row * this.usual;
    for (let node = row; node > 0; node -= node & -node) sum += this.tree[node];
    return sum;
  }

  /**
   * The row that has this pixel; the first or the last if there is none.
   * @param {number} pixel
   */
  at(pixel) {
    let row = 0;
    let left = pixel;
    for (let step = highestBit(this.tree.length - 1); step > 0; step >>= 1) {
      const next = row + step;
      if (next > this.count) continue;
      const height = step * this.usual + this.tree[next];
      if (height <= left) {
        row = next;
        left -= height;
      }
    }
    return Math.max(0, Math.min(row, this.count - 1));
  }

  rebuild() {
    const size = this.differences.length;
    this.tree = new Float64Array(size + 1);
    for (let node = 1; node <= size; node += 1) {
      this.tree[node] += this.differences[node - 1];
      const parent = node + (node & -node);
      if (parent <= size) this.tree[parent] += this.tree[node];
    }
  }
}

/** @param {number} number */
function highestBit(number) {
  return number < 1 ? 0 : 2 ** Math.floor(Math.log2(number));
}
