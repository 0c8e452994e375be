// Servers with their GPUs, and the slices of these drawn to scale. Text is put in by Vue,
// which escapes it: names are other people's.
export default {
  template: `
    <div class="fd-servers">
      <section v-for="server in servers" :key="server.key" class="fd-card fd-server"
               :class="{ 'fd-gone': server.state === 'dead' }" :data-server="server.key" :data-state="server.state">
        <header>
          <h3>{{ server.host }}</h3>
          <span class="fd-chip" :class="'fd-' + server.tone">{{ server.word }}</span>
          <span class="fd-push"></span>
          <button v-if="server.can" type="button" class="fd-button" @click="$emit('drain', server.key)">
            {{ server.state === 'draining' ? 'Resume' : 'Drain' }}
          </button>
        </header>
        <p class="fd-soft fd-address">{{ server.about }}</p>
        <p v-if="server.problem" class="fd-problem">{{ server.problem }}</p>
        <ol class="fd-gpus">
          <li v-for="gpu in server.gpus" :key="gpu.uuid" class="fd-gpu">
            <div class="fd-gpu-name"><b>GPU {{ gpu.ordinal }}</b> <span class="fd-soft" :title="gpu.uuid">{{ gpu.name }}</span></div>
            <div class="fd-bar" role="img" :aria-label="gpu.spoken">
              <template v-for="one in gpu.slices" :key="one.lease + one.start">
                <span class="fd-slice" :class="'fd-hue' + one.hue" tabindex="0" :data-lease="one.lease"
                      :title="one.title" :aria-label="one.title"
                      :style="{ left: 100 * one.start + '%', width: 100 * one.part + '%' }">
                  <i :style="{ width: 100 * one.fill + '%' }"></i>
                  <em>{{ one.label }}</em>
                </span>
              </template>
              <span v-if="gpu.hidden > 0" class="fd-slice fd-others" title="of other users"
                    :style="{ left: 100 * gpu.known + '%', width: 100 * gpu.hidden + '%' }"><em>others</em></span>
            </div>
            <div class="fd-gpu-figures fd-soft"><span>{{ gpu.granted }}</span><span>{{ gpu.used }}</span><span>{{ gpu.use }}</span></div>
          </li>
        </ol>
      </section>
    </div>
  `,
  props: { servers: Array },
};
