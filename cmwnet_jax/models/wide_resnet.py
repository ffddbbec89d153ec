"""Wide ResNet: few layers, many channels (Zagoruyko and Komodakis 2016)."""

import flax.linen as nn
import jax

from cmwnet_jax.errors import UsageError
from cmwnet_jax.models.layers import Classifier, global_average_pool
from cmwnet_jax.models.preact_resnet import PreActBlock


class WideResNet(Classifier, kw_only=True):
    """WRN-depth-widen: three stages of (depth - 4) / 6 pre-activated blocks, without dropout.

    Attributes:
        depth: 6n + 4.
        widen: factor of the stages' 16, 32 and 64 channels.
    """

    depth: int
    widen: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = True) -> jax.Array:
        """Logits [n, C] of images [n, height, width, channels].

        Raises:
            UsageError: depth is not 6n + 4.
        """
        if self.depth < 10 or self.depth % 6 != 4:
            raise UsageError(f"depth is {self.depth}, expected 6n + 4, such as 28")
        conv, norm = self.conv(), self.norm(train)
        x = conv(16, name="conv1")(images)
        for stage in range(3):
            for block in range(self.depth // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                channels = 16 * self.widen * 2**stage
                x = PreActBlock(channels, stride, conv, norm, name=f"layer{stage + 1}_{block}")(x)
        x = nn.relu(norm(name="bn1")(x))
        return self.outputs(global_average_pool(x), train)
