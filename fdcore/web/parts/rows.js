// A table that can be sorted and searched, with actions at the end of its rows. On a
// narrow screen each row becomes a card. Text is put in by Vue, which escapes it.
export default {
  template: `
    <div class="fd-rows">
      <div v-if="search" class="fd-search">
        <input type="search" v-model="wanted" placeholder="Search" :aria-label="'Search ' + caption">
        <span class="fd-soft">{{ shown.length }} of {{ rows.length }}</span>
      </div>
      <div class="fd-scroll">
        <table>
          <caption class="fd-unseen">{{ caption }}</caption>
          <thead><tr>
            <th v-for="column in columns" :key="column.name" :class="column.right && 'fd-right'"
                :aria-sort="by === column.name ? (down ? 'descending' : 'ascending') : 'none'">
              <button type="button" @click="sort(column.name)">{{ column.label }}<span aria-hidden="true">{{ by === column.name ? (down ? ' ▾' : ' ▴') : '' }}</span></button>
            </th>
            <th v-if="acting"><span class="fd-unseen">Actions</span></th>
          </tr></thead>
          <tbody>
            <tr v-for="row in shown" :key="row.key" :data-key="row.key" :class="row.tone && 'fd-row-' + row.tone">
              <td v-for="column in columns" :key="column.name" :data-label="column.label" :class="{ 'fd-right': column.right, 'fd-mono': column.mono }">
                <span v-if="column.kind === 'chip'" class="fd-chip" :class="'fd-' + row[column.name].tone">{{ row[column.name].text }}</span>
                <span v-else-if="column.kind === 'hue'" class="fd-name" :title="row[column.name].text"><i class="fd-dot" :class="'fd-hue' + row[column.name].hue"></i>{{ row[column.name].text }}</span>
                <span v-else-if="column.kind === 'bar'" class="fd-barcell"><span>{{ row[column.name].text }}</span><span class="fd-meter" v-if="row[column.name].share !== null"><span :style="{ width: 100 * row[column.name].share + '%' }"></span></span></span>
                <template v-else>{{ row[column.name] }}</template>
              </td>
              <td v-if="acting" class="fd-actions">
                <button v-for="action in row.cannot ? [] : actions" :key="action.name" type="button" class="fd-button" :class="action.tone && 'fd-' + action.tone"
                        :aria-label="action.label + ' ' + row.spoken" @click="$emit('act', { action: action.name, key: row.key })">{{ action.label }}</button>
              </td>
            </tr>
          </tbody>
        </table>
      </div>
      <p v-if="!shown.length" class="fd-empty">{{ wanted ? 'Nothing matches' : empty }}</p>
    </div>
  `,
  props: { columns: Array, rows: Array, actions: Array, caption: String, empty: String, search: Boolean },
  data() {
    return { wanted: "", by: "", down: false };
  },
  computed: {
    acting() {
      return this.actions.length > 0 && this.rows.some((row) => !row.cannot);
    },
    shown() {
      const words = this.wanted.toLowerCase().split(/\s+/).filter(Boolean);
      const found = this.rows.filter((row) => words.every((word) => row.words.includes(word)));
      if (!this.by) return found;
      const turn = this.down ? -1 : 1;
      const value = (row) => (row.order && this.by in row.order ? row.order[this.by] : row[this.by]);
      return found.slice().sort((a, b) => {
        const x = value(a), y = value(b);
        return turn * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
      });
    },
  },
  methods: {
    sort(name) {
      if (this.by === name && this.down) this.by = "";
      else if (this.by === name) this.down = true;
      else [this.by, this.down] = [name, false];
      if (!this.by) this.down = false;
    },
  },
};
