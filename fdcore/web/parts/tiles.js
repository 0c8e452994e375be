// Figures in large, each with a line below and maybe a bar.
export default {
  template: `
    <dl class="fd-tiles">
      <div v-for="tile in items" :key="tile.label" class="fd-card fd-tile" :class="tile.tone && 'fd-' + tile.tone">
        <dt>{{ tile.label }}</dt>
        <dd class="fd-figure">{{ tile.value }}<small v-if="tile.unit"> {{ tile.unit }}</small></dd>
        <dd class="fd-note">{{ tile.note }}</dd>
        <dd v-if="tile.share !== null" class="fd-meter" aria-hidden="true">
          <span v-if="tile.behind !== null" class="fd-behind" :style="{ width: 100 * tile.behind + '%' }"></span>
          <span :style="{ width: 100 * tile.share + '%' }"></span>
        </dd>
      </div>
    </dl>
  `,
  props: { items: Array },
};
